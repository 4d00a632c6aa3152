"""A recurrent network learns one text task; its embedding and recurrent layers serve another. No network needed.

python examples/texts.py
"""

import random

import headstart as hs

ANIMALS, PLACES = ("the cat", "a small dog", "this horse"), ("in the garden", "at the door", "near the river")
GOOD, BAD = ("is happy", "looks well", "sleeps calmly"), ("is ill", "looks sad", "limps badly")
FINE, POOR = ("was happy and well", "slept calmly"), ("was ill and sad", "limped badly")


def phrases(count: int, good: tuple[str, ...], bad: tuple[str, ...], seed: int) -> hs.Dataset:
    """Sentences about animals, labelled by how the animal is."""
    draw = random.Random(seed)
    texts, labels = [], []
    for number in range(count):
        ends = good if number % 2 else bad
        texts.append(f"{draw.choice(ANIMALS)} {draw.choice(PLACES)} {draw.choice(ends)}")
        labels.append("well" if number % 2 else "unwell")
    return hs.Dataset.from_items(texts, "text").with_targets(labels)


source = hs.pretrain("lstm", phrases(200, GOOD, BAD, seed=0), epochs=3, random_state=0)
for layer in source.layers:
    print(f"{layer.name:12} {layer.kind:10} {layer.shape}")

predictor = hs.fit(source, phrases(16, FINE, POOR, seed=1), random_state=0)
print(predictor.evaluate(phrases(60, FINE, POOR, seed=2)).metrics["accuracy"], "from", "+".join(predictor.layers))
print(predictor.predict("the cat at the door was ill and sad"))

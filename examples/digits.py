"""Learn digits 0–4, then digits 5–9 from ten pictures each: with and without what was learned before.

python examples/digits.py
"""

import numpy as np
from sklearn.datasets import load_digits

import headstart as hs

digits = load_digits()
pictures = np.kron(digits.images, np.ones((1, 3, 3)))[..., None] * 15.9  # (n, 24, 24, 1), 0 to 254
low = digits.target < 5

# The source task: a small network learns 0–4. Its weights are what is transferred.
source_task = hs.Dataset.from_arrays(pictures[low].astype(np.uint8), digits.target[low])
source = hs.pretrain("cnn", source_task, epochs=5, random_state=0)

# The target task: 5–9, ten labelled pictures of each.
target_task = hs.Dataset.from_arrays(pictures[~low].astype(np.uint8), digits.target[~low])
train, test = target_task.split(test_size=0.5, random_state=0)
few = train.sample(per_class=10, random_state=0)

transferred = hs.fit(source, few, random_state=0)  # the layer and the head are chosen on these fifty pictures alone
untrained = hs.fit(hs.pretrain("cnn", few, objective="random", random_state=0), few, random_state=0)

for name, predictor in (("transferred", transferred), ("random weights", untrained)):
    print(f"{name:15}", predictor.evaluate(test).metrics["accuracy"], "from", "+".join(predictor.layers))

transferred.save("digits.headstart")  # safetensors and JSON; loading executes nothing
print(hs.load("digits.headstart").predict(list(test.items[:5])), "should be", list(test.targets[:5]))

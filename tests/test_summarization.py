"""Extractive summaries without a model: the oracle, features, TextRank, lengths."""

from collections import Counter
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest

from headstart.errors import OptionError
from headstart.metrics.text import words
from headstart.summarization import (
    SIMILARITY,
    SURFACE,
    Document,
    Length,
    best_first,
    features,
    oracle,
    rouge,
    similarity,
    surface,
)

STORY = (
    "Rates fall again\n\nThe central bank cut interest rates on Tuesday. It was raining. Interest rates are now at "
    "their lowest since 1995, the central bank said. Dogs bark. The bank expects rates to stay low."
)


def test_words_of_any_script():
    assert words("The U.S. cut 3 rates") == ["the", "u", "s", "cut", "3", "rates"]
    assert words("降息3次") == ["降", "息", "3", "次"]


def test_the_oracle_finds_the_sentences_of_a_verbatim_reference():
    document = Document.from_text(STORY)
    expected = [1, 3]
    result = oracle(document.sentences, "\n".join(document.sentences[i] for i in expected))
    assert np.flatnonzero(result).tolist() == expected


def test_the_oracle_is_greedy_by_its_definition():
    """Against the plain search that scores whole texts; words do not repeat over the joints, so no pairs do either."""
    document = Document.from_text(STORY)
    reference = "the bank cut rates on a rainy tuesday and expects rates to stay low"

    def total(places):
        message = [document.sentences[i] for i in places]
        return rouge(reference, " ".join(message)) + _pairs(reference, message)

    taken, best = [], 0.0
    while True:
        rest = [i for i in range(len(document)) if i not in taken]
        scores = {i: total([*taken, i]) for i in rest}
        top = max(scores, key=scores.get, default=None)
        if top is None or scores[top] <= best + 1e-12:
            break
        taken, best = [*taken, top], scores[top]
    assert np.flatnonzero(oracle(document.sentences, reference)).tolist() == sorted(taken) != []


def _pairs(reference, said):
    def grams(text):
        tokens = words(text)
        return Counter(pairwise(tokens))

    true, result = grams(reference), sum((grams(text) for text in said), Counter())
    return 2 * sum((true & result).values()) / (sum(true.values()) + sum(result.values()))


def test_the_oracle_takes_nothing_that_does_not_help():
    assert not oracle(["abc def", "ghi"], "xyz").any()
    assert not oracle([], "xyz").any()
    assert not oracle(["abc"], "...").any()


def test_rouge_equals_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2"])
    true, message = "the cat sat on the mat and the dog ran", "a cat and a dog sat on the red mat"
    result = scorer.score(true, message)
    for n in (1, 2):
        assert rouge(true, message, n) == pytest.approx(result[f"rouge{n}"].fmeasure)
    assert rouge("降息三次", "降息两次") == pytest.approx(0.75)
    assert rouge("", "") == 0


def test_textrank_is_the_leading_eigenvector():
    document = Document.from_text(STORY)
    A = document.tfidf.toarray()
    links = A @ A.T
    np.fill_diagonal(links, 0)
    n, out = len(document), links.sum(1)
    moves = np.where(out[:, None] > 0, links / np.where(out, out, 1)[:, None], 1 / n)
    google = 0.85 * moves.T + 0.15 / n
    values, vectors = np.linalg.eig(google)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(document.textrank, n * leading / leading.sum(), atol=1e-6)
    assert document.textrank.sum() == pytest.approx(n)
    assert out[4] == 0  # "Dogs bark.": linked to nothing, and still ranked


def test_surface_features_say_what_their_names_say():
    document = Document.from_text(STORY)
    table = dict(zip(SURFACE, surface(document).T, strict=True))
    assert table["position"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert table["first"].tolist() == [1, 0, 0, 0, 0, 0]
    assert table["last"].tolist() == [0, 0, 0, 0, 0, 1]
    assert table["heading"].tolist() == [1, 0, 0, 0, 0, 0]
    assert table["digits"][3] > 0 == table["digits"][1]
    assert table["like_first"].argmax() == 0
    assert table["like_document"][[2, 4]] == pytest.approx(table["like_document"].min())  # the rain and the dogs
    np.testing.assert_allclose(np.expm1(table["length"]), document.lengths)
    # rates 4, bank 3, central 2, interest 2, …
    assert table["frequency"].argmax() == 3


def test_similarity_against_the_whole_matrix():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 5)) * rng.uniform(1, 9, (9, 1))
    table = dict(zip(SIMILARITY, similarity(rows).T, strict=True))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    centre = unit.mean(0) / np.linalg.norm(unit.mean(0))
    others = cosine[~np.eye(9, dtype=bool)].reshape(9, 8)
    np.testing.assert_allclose(table["like_document"], unit @ centre)
    np.testing.assert_allclose(table["like_first"], cosine[0])
    np.testing.assert_allclose(table["like_nearest"], np.sort(others)[:, -3:].mean(1))
    np.testing.assert_allclose(table["like_all"], others.mean(1))
    np.testing.assert_allclose(table["like_before"], [0, *np.diag(cosine, 1)])
    np.testing.assert_allclose(table["novelty"], [1, *(1 - cosine[i, :i].max() for i in range(1, 9))])


def test_blocks_of_similarity_change_nothing(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(23, 4))
    full = similarity(rows)
    monkeypatch.setattr(import_module("headstart.summarization.features"), "_BLOCK", 5)
    np.testing.assert_allclose(similarity(rows), full)


@pytest.mark.parametrize("text", ["One.", "A b. A b.", "...", "。", "降息。降息。央行降息了。"])
def test_features_of_the_smallest_documents_are_finite(text):
    document = Document.from_text(text)
    vectors = np.zeros((len(document), 3))
    for name in ("surface", "surface + similarity", "surface + similarity + vectors"):
        assert np.isfinite(features(document, vectors, name)).all()


def test_chinese_terms_are_pairs_of_characters():
    document = Document.from_text("央行降息。央行加息。")
    assert document.counts.shape[1] == 5  # 央行 行降 降息 行加 加息
    assert document.counts.sum() == 6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, Length("sentences", 3)),
        (0.3, Length("share of sentences", 0.3)),
        ("30 %", Length("share of sentences", 0.3)),
        ("3 sentences", Length("sentences", 3)),
        ("100 words", Length("words", 100)),
    ],
)
def test_lengths_as_they_are_written(value, expected):
    assert Length.parse(value) == expected


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", "0 words", "200 %", None, float("nan")])
def test_lengths_that_mean_nothing(value):
    with pytest.raises(OptionError, match="length of a summary"):
        Length.parse(value)


def test_the_length_is_learned_in_the_unit_in_which_references_agree():
    def of(*counts):
        return [Document(tuple(f"{'word ' * (i % 5 + 1)}." for i in range(n))) for n in counts]

    documents = of(10, 20, 30)
    assert Length.learned(documents, of(4, 8, 12)) == Length("share of sentences", pytest.approx(0.4))
    assert Length.learned(documents, of(3, 3, 3)) == Length("sentences", pytest.approx(3))
    ten = [
        Document(("a b c d e f g h i j",)),
        Document(("a b c d e", "f g h i j")),
        Document(("a b", "c d e f g h i j")),
    ]
    assert Length.learned(documents, ten) == Length("words", pytest.approx(10))


def test_filling_a_budget():
    document = Document(("a b c d", "e f", "a b c x", "g h i j k l", "m"))
    order = np.array([0, 2, 3, 1, 4])
    assert Length("sentences", 3).fill(order, document).tolist() == [0, 2, 3]
    assert Length("share of sentences", 0.5).fill(order, document).tolist() == [0, 2, 3]  # 2.5 is rounded up
    assert Length("sentences", 3).fill(order, document, blocking=True).tolist() == [0, 1, 3]  # "a b c" is said once
    assert Length("words", 9).fill(order, document).tolist() == [0, 2]  # 8 is nearer to 9 than 14
    assert Length("words", 12).fill(order, document).tolist() == [0, 2, 3]
    assert Length("words", 1).fill(order, document).tolist() == [0]  # never nothing
    assert Length("sentences", 99).fill(order, document).tolist() == [0, 1, 2, 3, 4]


def test_of_equal_scores_the_earlier_sentence_comes_first():
    assert best_first(np.array([1.0, 2.0, 2.0, 1.0])).tolist() == [1, 2, 0, 3]

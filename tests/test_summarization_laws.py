"""What holds for every document: budgets are kept, order is the document's, features do not see what they must not."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.metrics.text import words
from headstart.summarization import (
    SETS,
    SIMILARITY,
    SURFACE,
    UNITS,
    Document,
    Length,
    best_first,
    features,
    join_sentences,
    oracle,
    rouge,
    similarity,
    surface,
)

WORDS = st.sampled_from("river market council garden engine harvest window 降 息 央行 5 1,000 U.S. I a".split())  # noqa: SIM905
SENTENCE = st.lists(WORDS, min_size=1, max_size=9).map(lambda found: " ".join(found).capitalize() + ".")
DOCUMENTS = st.lists(SENTENCE, min_size=1, max_size=12).map(lambda found: Document(tuple(found)))
AMOUNTS = {"share of sentences": 0.4, "sentences": 3.0, "share of words": 0.4, "words": 20.0}


def orders(document: Document, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(document))


# ---- lengths ---------------------------------------------------------------------------------------------------------


@given(DOCUMENTS, st.sampled_from(UNITS), st.integers(0, 9))
def test_a_summary_is_some_sentences_in_the_documents_order(document, unit, seed):
    chosen = Length(unit, AMOUNTS[unit]).fill(orders(document, seed), document)
    assert 1 <= len(chosen) <= len(document)
    assert (np.diff(chosen) > 0).all()


@given(DOCUMENTS, st.integers(1, 15), st.integers(0, 9))
def test_so_many_sentences_are_the_first_of_the_order(document, count, seed):
    order = orders(document, seed)
    chosen = Length("sentences", float(count)).fill(order, document)
    assert set(chosen.tolist()) == set(order[:count].tolist())


@given(DOCUMENTS, st.integers(1, 80), st.integers(0, 9))
def test_so_many_words_are_as_near_as_the_order_allows(document, count, seed):
    """No other number of sentences from the front of the order is nearer."""
    order = orders(document, seed)
    chosen = Length("words", float(count)).fill(order, document)
    sizes = np.cumsum(document.lengths[order])
    assert set(chosen.tolist()) == set(order[: len(chosen)].tolist())
    assert abs(sizes[len(chosen) - 1] - count) == np.abs(sizes - count).min()


@given(DOCUMENTS, st.integers(0, 9))
def test_blocking_never_repeats_three_words(document, seed):
    chosen = Length("share of sentences", 1.0).fill(orders(document, seed), document, blocking=True)
    seen: set = set()
    for path in chosen.tolist():
        message = document.words[path]
        grams = {(a, *rest) for a, rest in zip(message, pairwise(message[1:]))}
        assert not seen & grams
        seen |= grams


@given(DOCUMENTS)
def test_all_of_a_document_is_the_document(document):
    chosen = Length("share of sentences", 1.0).fill(np.arange(len(document)), document)
    assert join_sentences(document, chosen, "\n").split("\n") == list(document.sentences)


@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.integers(1, 4))
def test_a_learned_length_is_that_of_references_of_equal_length(documents, count):
    documents = [document for document in documents if len(document) >= count] or [Document(("A b.",) * 4)]
    references = [Document(document.sentences[:count]) for document in documents]
    learned = Length.learned(documents, references)
    assert learned.unit in UNITS and learned.amount > 0
    if learned.unit == "sentences":
        assert learned.amount == pytest.approx(count)


@given(st.integers(1, 500), st.sampled_from(["{} sentences", "{} words", "  {}  words ", "{}words"]))
def test_lengths_are_read_as_they_are_written(count, form):
    result = Length.parse(form.format(count))
    assert result == Length("words" if "word" in form else "sentences", float(count))
    assert Length.parse(str(result)) == result
    assert Length.parse(result) is result


@given(st.integers(1, 99))
def test_per_cent_are_a_share(percent):
    result = Length.parse(f"{percent} %")
    assert result == Length("share of sentences", percent / 100) == Length.parse(percent / 100)
    assert str(result) == f"{percent} % of the sentences"


@pytest.mark.parametrize(
    ("sentences", "joint", "text"),
    [
        (("A b.", "C d."), " ", "A b. C d."),
        (("A b.", "C d."), "\n", "A b.\nC d."),
        (("降息。", "加息！"), " ", "降息。加息！"),
        (("降息。", "加息！"), "\n", "降息。\n加息！"),
        (("他说“好。”", "然后走了。"), " ", "他说“好。”然后走了。"),
        (("降息。", "Rates fell."), " ", "降息。Rates fell."),
        (("Rates fell.", "降息。"), " ", "Rates fell. 降息。"),
        (("Alone.",), " ", "Alone."),
    ],
)
def test_sentences_are_joined_as_their_script_is_written(sentences, joint, text):
    document = Document(sentences)
    assert join_sentences(document, np.arange(len(document)), joint) == text


# ---- the oracle ------------------------------------------------------------------------------------------------------


def gain(reference: str, sentences: list[str]) -> float:
    """What the oracle raises: ROUGE-1 + ROUGE-2 with pairs of words counted inside sentences only."""
    total = 0.0
    for n in (1, 2):
        true = Counter(zip(*(words(reference)[i:] for i in range(n))))
        message = Counter(gram for item in sentences for gram in zip(*(words(item)[i:] for i in range(n))))
        total += 2 * sum((true & message).values()) / max(sum(true.values()) + sum(message.values()), 1)
    return total


@given(DOCUMENTS, st.integers(0, 99))
def test_the_oracle_cannot_be_bettered_by_adding_a_sentence(document, seed):
    reference = " ".join(document.sentences[i] for i in orders(document, seed)[:2])
    taken = oracle(document.sentences, reference)
    assert taken.shape == (len(document),) and taken.dtype == bool and taken.any()
    message = [sentence for sentence, remaining in zip(document.sentences, taken) if remaining]
    reached = gain(reference, message)
    assert reached >= max(gain(reference, [item]) for item in document.sentences) - 1e-9
    others = [sentence for sentence, remaining in zip(document.sentences, taken) if not remaining]
    assert all(gain(reference, [*message, item]) <= reached + 1e-9 for item in others)


@given(DOCUMENTS)
def test_a_reference_that_is_one_sentence_is_found(document):
    taken = oracle(document.sentences, document.sentences[0])
    message = [sentence for sentence, remaining in zip(document.sentences, taken) if remaining]
    assert rouge(document.sentences[0], " ".join(message)) == pytest.approx(1.0)


@given(DOCUMENTS)
def test_rouge_is_symmetric_and_bounded(document):
    a, b = document.sentences[0], document.sentences[-1]
    for n in (1, 2):
        assert rouge(a, b, n) == rouge(b, a, n)
        assert 0 <= rouge(a, b, n) <= 1
    assert rouge(a, a) == 1


def test_only_the_sentences_that_share_most_are_looked_at(monkeypatch):
    document = [f"filler {i}." for i in range(50)] + ["the bank cut rates.", "rates will stay low."]
    reference = "the bank cut rates. rates will stay low."
    full = oracle(document, reference)
    monkeypatch.setattr(import_module("headstart.summarization.oracle"), "_MOST", 5)
    assert (oracle(document, reference) == full).all() and np.flatnonzero(full).tolist() == [50, 51]


# ---- features --------------------------------------------------------------------------------------------------------


@given(DOCUMENTS)
def test_features_have_a_row_per_sentence_and_a_column_per_name(document):
    vectors = np.random.default_rng(0).normal(size=(len(document), 4)).astype(np.float32)
    widths = (len(SURFACE), len(SURFACE) + len(SIMILARITY), len(SURFACE) + len(SIMILARITY) + 4)
    for name, width in zip(SETS, widths, strict=True):
        result = features(document, vectors, name)
        assert result.shape == (len(document), width) and result.dtype == np.float32
        assert np.isfinite(result).all()


@given(DOCUMENTS)
def test_surface_features_see_no_vectors(document):
    assert np.array_equal(features(document, None, "surface"), surface(document).astype(np.float32))


@given(DOCUMENTS, st.integers(0, 9), st.floats(0.01, 100))
def test_cosines_do_not_see_the_length_of_vectors(document, seed, factor):
    vectors = np.random.default_rng(seed).normal(size=(len(document), 5))
    assert np.allclose(similarity(vectors), similarity(vectors * factor), atol=1e-9)


@given(DOCUMENTS, st.integers(0, 9))
def test_cosines_do_not_see_rotations(document, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(document), 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert np.allclose(similarity(vectors), similarity(vectors @ turn), atol=1e-9)


@given(DOCUMENTS, st.integers(0, 9))
def test_what_has_no_place_moves_with_its_sentence(document, seed):
    """In another order a sentence keeps the features that do not tell where it stands."""
    order = orders(document, seed)
    moved = Document(tuple(document.sentences[i] for i in order))
    placeless = [
        SURFACE.index(name) for name in SURFACE if name not in ("position", "early", "first", "last", "like_first")
    ]
    assert np.allclose(surface(moved)[:, placeless], surface(document)[order][:, placeless], atol=1e-6)


@given(DOCUMENTS)
def test_textrank_is_positive_and_one_on_average(document):
    rank = document.textrank
    assert (rank > 0).all() and rank.mean() == pytest.approx(1.0, abs=1e-6)


@given(DOCUMENTS)
def test_rows_of_tfidf_are_of_unit_length_or_empty(document):
    norms = np.sqrt(np.asarray(document.tfidf.multiply(document.tfidf).sum(1)).ravel())
    assert all(norm == pytest.approx(1.0) or norm == 0 for norm in norms)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_best_first_is_a_stable_order(scores):
    order = best_first(np.array(scores))
    ranked = [(-scores[i], i) for i in order.tolist()]
    assert ranked == sorted(ranked)

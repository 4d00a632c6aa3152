"""Recurrent text networks: tokens, vocabulary, packed padding, last states, pretraining and transfer."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart as hs
from headstart.dataset import Dataset
from headstart.errors import DataError, HeadstartError, OptionError, StoreError, UnknownName
from headstart.extraction import extract
from headstart.pretraining import pretrain
from headstart.sources import load_source
from headstart.sources.inputs.text import PAD, UNKNOWN, VocabularyInput, fit_vocabulary, tokenise
from networks import state_bytes

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False}
WORDS = ("a", "cat", "sat", "on", "the", "mat", "two", "dogs", "ran", "你", "好")
CELLS = [("lstm", False), ("lstm", True), ("gru", False), ("gru", True)]


def small(cell="lstm", bidirectional=False, **options):
    settings = {"vocabulary": WORDS, "embedding": 6, "hidden": 5, "cell": cell, "bidirectional": bidirectional}
    return load_source("lstm:small", **{**settings, **options})


def states(source, texts, layer="recurrent"):
    """Un-pooled output of a layer for these texts in one batch."""
    batch = source.input.collate([source.input.prepare(text) for text in texts])
    with torch.inference_mode():
        tensors = source.input.tensors(batch, torch.device("cpu"), torch.float32)
        return source.run(tensors, {layer: lambda output: output.clone()})[layer].numpy()


def rows(source, texts, layer, pooling="auto"):
    data = Dataset.from_arrays(list(texts))
    return extract(source, data, layers=layer, pooling=pooling, **PLAIN).rows(layer, data)


# ---- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't STOP!", ["don", "'", "t", "stop", "!"]),
        ("我们喜欢猫。", ["我", "们", "喜", "欢", "猫", "。"]),
        ("用GPU训练 model2", ["用", "gpu", "训", "练", "model2"]),
        ("かな カナ", ["か", "な", "カ", "ナ"]),
        ("𠀀x", ["𠀀", "x"]),
        ("Straße naïve Привет", ["straße", "naïve", "привет"]),
        ("3.5 %", ["3", ".", "5", "%"]),
        ("snake_case", ["snake", "_", "case"]),
        ("", []),
        (" \n\t\u3000", []),
    ],
)
def test_tokens(text, tokens):
    if "_" in text:  # an underscore counts as a letter in one place and as a mark in others; nothing may be lost
        tokens = tokenise(text)
        assert "".join(tokens) == text
        return
    assert tokenise(text) == tokens


@given(st.text())
def test_any_text_has_tokens_in_lower_case_that_keep_what_can_be_seen(text):
    tokens = tokenise(text)
    assert tokens == tokenise(text)
    assert all(tokens)
    assert not any(any(c.isspace() for c in token) for token in tokens)
    assert "".join(tokens) == "".join(text.lower().split())
    assert tokens == tokenise(text.lower())


@given(st.text(alphabet="一丁七万丈三上下不与", min_size=1))
def test_chinese_is_read_character_by_character(text):
    assert tokenise(text) == list(text)


@given(st.lists(st.sampled_from(["b", "a", "c", "好", "!"]), min_size=1, max_size=30), st.integers(1, 6))
def test_vocabulary_by_frequency_then_alphabet(tokens, size):
    result = fit_vocabulary([" ".join(tokens[:7]), " ".join(tokens[7:])], size)
    counts = Counter(tokens)
    assert list(result) == sorted(counts, key=lambda t: (-counts[t], t))[:size]
    assert result == fit_vocabulary([" ".join(reversed(tokens))], size)


@pytest.mark.parametrize("texts", [[], [""], [" \n"]])
def test_no_words_no_vocabulary(texts):
    with pytest.raises(DataError, match="no words"):
        fit_vocabulary(texts)


def test_numbers_of_tokens():
    preprocessing = VocabularyInput(("cat", "the"), 4)
    assert preprocessing.prepare("The CAT flew")["ids"].tolist() == [3, 2, UNKNOWN]
    assert preprocessing.prepare("")["ids"].tolist() == [UNKNOWN]
    long = preprocessing.prepare("the the the the the")
    assert long["ids"].tolist() == [3, 3, 3, 3]
    assert preprocessing.warning(long) == "longer than 4 tokens and cut there"
    assert preprocessing.warning(preprocessing.prepare("the the the the")) is None
    batch = preprocessing.collate([preprocessing.prepare("cat"), preprocessing.prepare("the cat the")])
    assert batch.inputs["x"].tolist() == [[2, PAD, PAD], [3, 2, 3]]
    assert batch.mask.tolist() == [[1, 0, 0], [1, 1, 1]]


@given(st.integers(1, 7), st.integers(0, 9), st.integers(1, 20))
def test_examples_are_numbers_of_the_vocabulary(n, words, length):
    batch = VocabularyInput(tuple(f"w{i}" for i in range(words)), length).example(n)
    ids = batch.inputs["x"]
    assert len(ids) == n
    assert ids.max() < words + 2
    assert ids.shape[1] <= length
    assert (batch.mask.sum(1) >= 1).all()


def test_descriptions_follow_vocabulary_and_length():
    built = [VocabularyInput(("a", "b"), 5), VocabularyInput(("b", "a"), 5), VocabularyInput(("a", "b"), 6)]
    assert len({json.dumps(preprocessing.describe(), sort_keys=True) for preprocessing in built}) == 3


# ---- the network ----------------------------------------------------------------------------------------------------

texts_of_words = st.lists(
    st.lists(st.sampled_from([*WORDS, "new"]), min_size=1, max_size=12).map(" ".join), min_size=2, max_size=6
)


@pytest.mark.parametrize(("cell", "bidirectional"), CELLS)
@settings(max_examples=10)
@given(texts=texts_of_words)
def test_padding_never_changes_states(cell, bidirectional, texts):
    source = small(cell, bidirectional)
    together, last = states(source, texts), states(source, texts, "state")
    for row, text in enumerate(texts):
        alone = states(source, [text])[0]
        assert np.allclose(together[row, : len(alone)], alone, atol=1e-6)
        assert (together[row, len(alone) :] == 0).all()
        assert np.allclose(last[row], states(source, [text], "state")[0], atol=1e-6)


@pytest.mark.parametrize(("cell", "bidirectional"), CELLS)
def test_states_are_those_of_a_loop_over_one_text(cell, bidirectional):
    source = small(cell, bidirectional)
    text = "two dogs sat on the mat"
    inner = source.module.recurrent.cell
    with torch.inference_mode():
        ids = torch.from_numpy(source.input.prepare(text)["ids"])
        words = source.module.embedding(ids)
        out, final = inner(words[None])
    final = final[0] if cell == "lstm" else final
    assert np.allclose(states(source, [text])[0], out[0].numpy(), atol=1e-6)
    # the last real state of each direction is what the cell itself calls its final state
    assert np.allclose(states(source, [text, f"{text} {text}"], "state")[0], final[:, 0].flatten().numpy(), atol=1e-6)


def test_layers():
    source = small(bidirectional=True)
    assert [layer.name for layer in source.layers][:3] == ["embedding", "recurrent", "state"]
    assert source.layer("recurrent").axes == "tc"
    assert source.layer("recurrent").shape == (-1, 10)
    assert source.layer("state").shape == (10,)
    assert source.layer("recurrent").macs > 0
    assert source.classifier == "classifier"
    assert "classifier" not in source.select("auto")
    assert source.select("last") == ("state",)


def test_rows_pool_over_real_words_only():
    source = small()
    texts = ["cat", "two dogs ran on the mat", "a cat sat"]
    means = np.stack([states(source, [text])[0].mean(0) for text in texts])
    assert np.allclose(rows(source, texts, "recurrent", "avg"), means, atol=1e-6)


def test_seeds_reproduce_to_the_bit_and_leave_the_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    item, two, other = small(seed=1), small(seed=1), small(seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert state_bytes(item.module) == state_bytes(two.module)
    assert item.fingerprint == two.fingerprint != other.fingerprint


def test_what_it_is_made_of_is_in_the_fingerprint():
    built = [small(), small("gru"), small(bidirectional=True), small(max_length=9), small(vocabulary=WORDS[::-1])]
    assert len({item.fingerprint for item in built}) == len(built)


@pytest.mark.parametrize(
    "options",
    [{"cell": "rnn"}, {"hidden": 0}, {"embedding": -1}, {"classes": 0}, {"max_length": 0}, {"no_such": 1}],
)
def test_options_that_make_no_network(options):
    with pytest.raises(OptionError):
        small(**options)


def test_cells_that_are_not_known_are_named():
    with pytest.raises(UnknownName, match="gru"):
        small("gruu")


# ---- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "bidirectional"), CELLS)
def test_saving_keeps_vocabulary_rows_and_fingerprint(cell, bidirectional, tmp_path):
    source = small(cell, bidirectional)
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.input.vocabulary == WORDS
    assert again.fingerprint == source.fingerprint
    texts = ["a cat sat", "你好", "two dogs ran on the mat", "new words"]
    for layer in ("recurrent", "state"):
        assert rows(again, texts, layer).tobytes() == rows(source, texts, layer).tobytes()


@pytest.mark.parametrize("content", [b"", b"[", b"3", b"null", b"\xff", b'{"a": 1}', b'"word"'])
def test_a_damaged_vocabulary(content, tmp_path):
    folder = small().save(tmp_path / "kept")
    (folder / "files" / "vocabulary.json").write_bytes(content)
    with pytest.raises(StoreError):
        load_source(f"saved:{folder}")
    with pytest.raises(StoreError, match="vocabulary"):
        load_source("lstm:small", files={"vocabulary.json": content})


def test_a_missing_vocabulary(tmp_path):
    folder = small().save(tmp_path / "kept")
    (folder / "files" / "vocabulary.json").unlink()
    with pytest.raises(StoreError, match=r"vocabulary\.json"):
        load_source(f"saved:{folder}")
    with pytest.raises(StoreError, match="vocabulary"):
        load_source("lstm:small", files={})


# ---- pretraining and transfer ---------------------------------------------------------------------------------------

GOOD, BAD, OTHER = ("good", "fine", "lovely"), ("bad", "awful", "poor"), ("film", "book", "the", "meal", "was", "真")


def reviews(n: int, seed: int = 0) -> Dataset:
    """One telling word at any place among words that say nothing."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(n):
        words = list(rng.choice(OTHER, rng.integers(2, 7)))
        words.insert(rng.integers(0, len(words) + 1), rng.choice(BAD if i % 2 else GOOD))
        texts.append(" ".join(words))
        labels.append("bad" if i % 2 else "good")
    return Dataset.from_arrays(texts, labels)


TRAINING = {"epochs": 8, "batch_size": 16, "lr": 1e-2, "embedding": 8, "hidden": 8}


@pytest.fixture(scope="module")
def trained():
    return pretrain("lstm", reviews(160), **TRAINING)


def test_pretraining_learns_its_task(trained):
    data = reviews(60, seed=1)
    with torch.inference_mode():
        batch = trained.input.collate([trained.input.prepare(text) for text in data.items])
        tensors = trained.input.tensors(batch, torch.device("cpu"), torch.float32)
        guessed = trained.forward(tensors).argmax(1).numpy()
    truth = data.columns[0].matrix().argmax(1)
    assert (guessed == truth).mean() > 0.9
    assert trained.meta["loss"][-1] < trained.meta["loss"][0] / 2
    assert not trained.module.training
    assert set(trained.input.vocabulary) == {*GOOD, *BAD, *OTHER}


def test_its_layers_transfer_to_another_task(trained, tmp_path):
    """Stars instead of words for the same opinions, from 24 texts; initial weights do not get there as surely."""
    first, second = reviews(24, seed=2), reviews(60, seed=3)
    small = Dataset.from_arrays(list(first.items), [5 if y == "good" else 1 for y in first.targets])
    options = {"layers": "state", "head": "ridge", "policy": "frozen", "store": tmp_path, "engine": "torch"}
    before = state_bytes(trained.module)
    fitted = hs.fit(trained, small, **options)
    stars = np.array([5 if y == "good" else 1 for y in second.targets])
    assert (np.asarray(fitted.predict(second)).astype(int) == stars).mean() > 0.9
    assert state_bytes(trained.module) == before


def test_pretraining_repeats_to_the_bit(trained):
    short = {**TRAINING, "epochs": 2}
    item, two = (pretrain("lstm", reviews(40), **short) for _ in range(2))
    other = pretrain("lstm", reviews(40), **short, random_state=1)
    assert state_bytes(item.module) == state_bytes(two.module)
    assert item.fingerprint == two.fingerprint != other.fingerprint


def test_what_was_pretrained_is_saved(trained, tmp_path):
    again = load_source(f"saved:{trained.save(tmp_path / 'kept')}")
    assert again.fingerprint == trained.fingerprint
    assert again.input.vocabulary == trained.input.vocabulary
    texts = list(reviews(6, seed=4).items)
    assert rows(again, texts, "state").tobytes() == rows(trained, texts, "state").tobytes()


def test_the_control_has_initial_weights_and_the_same_vocabulary(trained):
    control = pretrain("lstm", reviews(160), objective="random", embedding=8, hidden=8)
    assert control.input.vocabulary == trained.input.vocabulary
    assert control.fingerprint != trained.fingerprint


def test_the_size_of_the_vocabulary_and_of_the_output():
    labels = ["x", "y", "z"] * 4
    source = pretrain("lstm", Dataset.from_arrays([f"w{i} w w" for i in range(12)], labels), epochs=1, vocabulary=3)
    assert source.input.vocabulary == ("w", "w0", "w1")
    assert source.module.classifier.out_features == 3
    assert source.module.embedding.num_embeddings == 5


def test_what_it_cannot_be_pretrained_on():
    with pytest.raises(DataError, match="takes texts"):
        pretrain("lstm", Dataset.from_arrays(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]))
    with pytest.raises(HeadstartError):
        pretrain("lstm", Dataset.from_arrays(["a b", "c"], ["x", "y"]), no_such_option=3)
    with pytest.raises(UnknownName):
        pretrain("lstm", Dataset.from_arrays(["a b", "c"], ["x", "y"]), cell="rnn")

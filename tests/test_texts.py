"""Texts from end to end, through every family that reads them: hard ones, long ones, none, and every script."""

from __future__ import annotations

import numpy as np
import pytest

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import UnreadableItem
from headstart.extraction import extract
from headstart.pretraining import pretrain
from headstart.sources import load_source
from headstart.transfer import fit
from listeners import Notes

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False}
SCRIPTS = {
    "latin": "a cat sat on the mat",
    "accents": "Ça c'est déjà vu, naïve café",
    "chinese": "今天天气很好，我们去公园。",
    "japanese": "今日はいい天気ですね。",
    "korean": "오늘은 날씨가 좋습니다.",
    "arabic": "الطقس جميل اليوم",
    "hebrew": "מזג האוויר יפה היום",
    "hindi": "आज मौसम अच्छा है।",
    "thai": "วันนี้อากาศดี",
    "cyrillic": "Сегодня хорошая погода",
    "greek": "Ο καιρός είναι καλός σήμερα",
    "emoji": "🙂🙂 👩‍👩‍👧 🇨🇳",
    "marks": "?!… — “”",
    "numbers": "3.14 1,000 42",
    "mixed": "GPT 模型 42% größer 🙂",
}
MEGABYTE = "the cat sat on the mat. " * 43_700
KINDS = ("hf", "lstm", "gru", "bidirectional")


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    if request.param == "hf":
        pytest.importorskip("transformers", reason="transformers is not installed")
        from tiny_models import bert_folder

        return load_source(f"hf:{bert_folder(tmp_path_factory.mktemp('bert') / 'tiny')}")
    options = {"gru": {"cell": "gru"}, "bidirectional": {"bidirectional": True}}.get(request.param, {})
    data = Dataset.from_items(list(SCRIPTS.values()), "text")
    return pretrain("lstm", data, objective="random", max_length=20, **options)


@pytest.fixture(scope="module")
def scripts(source):
    """Rows of every script at the last layer."""
    data = Dataset.from_items(list(SCRIPTS.values()), "text")
    bank = extract(source, data, layers="last", **PLAIN)
    return dict(zip(SCRIPTS, bank.rows(bank.layers[0], data)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_finite_features(script, scripts):
    assert np.isfinite(scripts[script]).all() and scripts[script].any()


@pytest.mark.parametrize("script", ["latin", "chinese", "mixed"])
def test_a_text_has_the_features_it_has_alone(script, source, scripts):
    data = Dataset.from_items([SCRIPTS[script]], "text")
    bank = extract(source, data, layers="last", **PLAIN)
    assert np.allclose(bank.rows(bank.layers[0], data)[0], scripts[script], atol=1e-5)


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\u3000", "\0"])
def test_empty_texts_are_left_out_and_named(empty, source):
    data = Dataset.from_items(["a cat", empty, "two dogs"], "text")
    bank = extract(source, data, layers="last", **PLAIN)
    assert [(item.index, item.reason) for item in bank.skipped] == [(1, "empty text")]
    assert len(bank.rows(bank.layers[0], data.take([0, 2]))) == 2
    with pytest.raises(UnreadableItem, match="empty text"):
        extract(source, data, layers="last", on_error="raise", **PLAIN)


def test_a_megabyte_is_cut_and_the_cut_is_reported(source):
    log = Notes()
    data = Dataset.from_items([MEGABYTE, "a cat"], "text")
    with listening(log):
        bank = extract(source, data, layers="last", **PLAIN)
    assert any("cut" in note for note in log), log
    assert np.isfinite(bank.rows(bank.layers[0], data)).all() and not bank.skipped


def test_files_and_strings_are_one_text(source, tmp_path):
    (tmp_path / "chinese.txt").write_text(SCRIPTS["chinese"], encoding="utf-8")
    (tmp_path / "latin1.txt").write_bytes("größer".encode("latin-1"))
    data = Dataset.from_items([tmp_path / "chinese.txt", SCRIPTS["chinese"], tmp_path / "latin1.txt"], "text")
    bank = extract(source, data, layers="last", **PLAIN)
    (lost,) = bank.skipped
    assert lost.index == 2 and "not UTF-8: byte 0xf6 at offset 2" in lost.reason
    first, second = bank.rows(bank.layers[0], data.take([0, 1]))
    assert np.allclose(first, second, atol=1e-6)


def test_a_predictor_answers_for_every_text_or_says_why(source):
    texts = [f"a cat sat {word}" for word in "on the warm mat".split()] * 3  # noqa: SIM905
    other = [f"two dogs ran far away {word}" for word in "on the warm mat".split()] * 3  # noqa: SIM905
    train = Dataset.from_arrays([*texts, *other], ["cat"] * 12 + ["dog"] * 12)
    predictor = fit(source, train, head="ridge", store=False)
    requested = [*SCRIPTS.values(), MEGABYTE, " "]
    results = predictor.predict(requested, on_error="skip")
    assert set(results[:-1]) <= {"cat", "dog"} and results[-1] is None
    with pytest.raises(UnreadableItem, match="empty text"):
        predictor.predict(requested)
    result = predictor.evaluate(Dataset.from_arrays(["a cat sat", " "], ["cat", "dog"]))
    assert [item.reason for item in result.skipped] == ["empty text"] and result.metrics["accuracy"] == 1

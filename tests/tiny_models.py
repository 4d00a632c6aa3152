"""Tiny models of other libraries with random weights, written as the files those libraries write."""

from __future__ import annotations

import json
from pathlib import Path

from networks import seeded

WORDS = "[PAD] [UNK] [CLS] [SEP] a cat sat on the warm mat while two dogs ran far away".split()  # noqa: SIM905


def bert_folder(folder: Path, *, seed: int = 0) -> Path:
    """A two-layer BERT with its tokenizer, as ``save_pretrained`` leaves it."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    network = seeded(lambda: BertModel(config, add_pooling_layer=False), seed)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


SPEECH_KINDS = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")


def speech_folder(folder: Path, kind: str = "wav2vec2", *, norm: str = "group", seed: int = 0, **facts) -> Path:
    """A two-layer speech encoder with its feature extractor, as ``save_pretrained`` leaves it: a frame per 20 samples.

    ``norm``: over time in the first convolution ("group", as wav2vec2-base), or in every one over channels ("layer").
    """
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        kind, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=[8, 8],
        conv_kernel=[10, 4], conv_stride=[5, 4], num_feat_extract_layers=2, feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    network = seeded(lambda: AutoModel.from_config(config), seed)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    extractor = {"sampling_rate": 8000, "do_normalize": True, "return_attention_mask": norm == "layer", **facts}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


def keras_file(path: Path, *, seed: int = 0) -> Path:
    """A small convolutional classifier saved by Keras."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(6, activation="relu", name="dense"),
            layers.Dense(2, activation="softmax", name="classes"),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path

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


def onnx_file(path: Path, *, seed: int = 0, flip: bool = False, batch: int | str = "n") -> Path:
    """A small residual network for 12 × 12 pictures, written node by node: no exporter has a hand in it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(seed)

    def weights(name, *shape):
        array = (rng.normal(size=shape) / max(np.prod(shape[1:]), 1) ** 0.5).astype(np.float32)
        if flip and name == "w3":
            array.reshape(-1)[:1].view(np.int32)[:] ^= 1
        return numpy_helper.from_array(array, name)

    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["pixels", "w1", "b1"], ["stem"], **conv),
        helper.make_node("Relu", ["stem"], ["stem_act"]),
        helper.make_node("Conv", ["stem_act", "w2", "b2"], ["inner"], **conv),
        helper.make_node("Relu", ["inner"], ["inner_act"]),
        helper.make_node("Conv", ["inner_act", "w3", "b3"], ["branch"], **conv),
        helper.make_node("Add", ["branch", "stem_act"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("MaxPool", ["block"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["half"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
        helper.make_node("Gemm", ["vector", "w4", "b4"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["classes"]),
    ]
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (8, 6, 3, 3), "b2": (8,), "w3": (6, 8, 3, 3), "b3": (6,),
              "w4": (4, 6), "b4": (4,)}  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, [batch, 4])],
        [weights(name, *shape) for name, shape in shapes.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path

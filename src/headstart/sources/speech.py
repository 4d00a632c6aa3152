"""Speech encoders of the wav2vec2 family: waveform → convolutions → transformer, exact in batches.

Features of a clip are those of the clip alone, whatever it is batched with. transformers' own advice for models whose
front end normalises over time (``feat_extract_norm="group"``: wav2vec2-base, HuBERT-base) is to pad without a mask,
which lets padding into the statistics and into attention. Here that norm counts real frames only, and the mask is
always given: then padding and batch-mates change nothing, and a clip alone is what transformers gives for it without a
mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn

from headstart.errors import SourceError
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Source
from headstart.sources.inputs.audio import WaveInput

SPEECH = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
UNSUPPORTED_AUDIO = ("data2vec-audio", "sew", "sew-d", "wav2vec2-bert", "wav2vec2-conformer", "whisper")

# set around a forward pass, one value per thread: what the norm must know and modules do not hand on
_SAMPLES: ContextVar[torch.Tensor | None] = ContextVar("samples", default=None)


class ModelConfig(Protocol):
    """transformers' configuration of a model; its other fields depend on the architecture."""

    model_type: str

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


class MaskedGroupNorm(nn.GroupNorm):
    """Normalises every channel over its real frames; those behind a clip's end count for nothing.

    Attributes
    ----------
    kernel, stride : int
        Of the convolution before it, which made frames of samples.
    """

    kernel: int
    stride: int

    @classmethod
    def of(cls, norm: nn.GroupNorm, convolution: nn.Conv1d) -> MaskedGroupNorm:
        """With the weights of another one."""
        masked = cls(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        masked.load_state_dict(norm.state_dict())
        masked.kernel, masked.stride = convolution.kernel_size[0], convolution.stride[0]
        return masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples = _SAMPLES.get()
        if samples is None:
            return super().forward(x)
        frames = (samples - self.kernel) // self.stride + 1
        if bool((frames == x.shape[2]).all()):
            return super().forward(x)
        real = (torch.arange(x.shape[2], device=x.device) < frames[:, None])[:, None]
        values = x.float()
        count = frames[:, None, None]
        mean = (values * real).sum(2, keepdim=True) / count
        spread = ((values - mean).square() * real).sum(2, keepdim=True) / count
        out = (values - mean) * torch.rsqrt(spread + self.eps)
        return (out * self.weight[:, None] + self.bias[:, None]).to(x.dtype) * real


def disable_regularization(config: ModelConfig) -> None:
    """Training may not hide parts of the input or drop layers by chance that no seed of ours rules."""
    config.apply_spec_augment = False
    config.layerdrop = 0.0


def speech_source(name: str, network: torch.nn.Module, config: ModelConfig, files: Mapping[str, bytes]) -> Source:
    """The source of a network that transformers built."""
    first: Any = network.get_submodule("feature_extractor.conv_layers.0")
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        if norm.num_groups != norm.num_channels:
            raise SourceError(f"hf:{name} normalises groups of channels over time, which is not covered.")
        first.layer_norm = MaskedGroupNorm.of(norm, first.conv)
    meta = {"model_type": config.model_type}
    return Source(
        address=f"hf:{name}",
        backend=TorchBackend(network.eval(), f"hf:{name}", invoke=_invoke, submodules=_listed_modules),
        input=_input(name, config, files),
        rebuild={"family": "hf", "name": str(config.model_type), "options": {}},
        meta=meta,
        files=dict(files),
        minimum_cosine=0.999,
    )


def _input(name: str, config: ModelConfig, files: Mapping[str, bytes]) -> WaveInput:
    try:
        plain = json.loads(files.get("preprocessor_config.json", b"{}"))
        rate, normalise = plain.get("sampling_rate", 16_000), plain.get("do_normalize", True)
    except (ValueError, AttributeError) as error:
        raise SourceError(f"preprocessor_config.json of hf:{name} is damaged: {error}") from error
    if type(rate) is not int or type(normalise) is not bool or plain.get("feature_size", 1) != 1:
        raise SourceError(f"preprocessor_config.json of hf:{name} asks for something else than a waveform: {plain}.")
    return WaveInput(rate, normalise, tuple(zip(map(int, config.conv_kernel), map(int, config.conv_stride))))


def _invoke(network: torch.nn.Module, tensors: dict[str, Any]) -> Any:
    samples = tensors["samples"]
    mask = torch.arange(tensors["x"].shape[1], device=samples.device)[None] < samples[:, None]
    token = _SAMPLES.set(samples)
    try:
        return network(tensors["x"], attention_mask=mask.long())
    finally:
        _SAMPLES.reset(token)


def _listed_modules(network: torch.nn.Module) -> dict[str, Any]:
    """The modules that are listed as layers: the features before the transformer, its layers, and the output."""
    layers = {f"encoder.layers.{i}": layer for i, layer in network.get_submodule("encoder.layers").named_children()}
    return {"": network, "feature_projection": network.get_submodule("feature_projection"), **layers}

"""transformers' encoders of texts and of speech: a local folder, an installed package that carries one, or the hub.

``hf:FOLDER`` reads ``config.json`` and safetensors; ``hf:NAME`` looks for an installed package of that name that
carries a model folder, then in the local hub cache, and asks the network last. A folder in sentence-transformers' form
(``modules.json``) keeps its own pooling, dense layers and normalisation: that vector is the layer ``"output"``.
Otherwise ``"output"`` is the last hidden state, pooled like any other layer. wav2vec2, HuBERT, WavLM and UniSpeech
take the waveform (``speech.py``). No code from a model folder is ever run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import files as files_of
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headstart._base import extras
from headstart._base.files import read_json
from headstart.errors import OfflineError, OptionError, SourceError, WeightsError
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Source
from headstart.sources.inputs.text import TextInput
from headstart.sources.speech import SPEECH, UNSUPPORTED_AUDIO, ModelConfig, disable_regularization, speech_source
from headstart.sources.weights import fit_weights, hub_folder, read_weights

if TYPE_CHECKING:
    import torch

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt",
}
_ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh")


@dataclass
class SentenceHead:
    """The end of a sentence encoder: the pooling of tokens, dense layers (size, activation), and normalisation."""

    modes: list[str]
    dense: list[dict[str, Any]] = field(default_factory=list)
    normalise: bool = False
    max_length: int | None = None

    def attach(self, network: torch.nn.Module) -> None:
        """Make the network return the sentence vector (items, width) instead of its hidden states."""
        import torch

        layers = [torch.nn.Linear(d["in"], d["out"], bias=d["bias"]) for d in self.dense]
        if layers:
            network.add_module("sentence_dense", torch.nn.ModuleList(layers))
        network.register_forward_hook(_Pool(self), with_kwargs=True)

    def fill(self, network: torch.nn.Module, folder: Path) -> None:
        """Load the dense layers' weights."""
        for number, dense in enumerate(self.dense):
            path = folder / dense["folder"] / "model.safetensors"
            weights = {k.removeprefix("linear."): v for k, v in read_weights(path).items()}
            fit_weights(network.get_submodule(f"sentence_dense.{number}"), weights, str(path))


class _Pool:
    """A forward hook; a class so that a copied network carries it along."""

    def __init__(self, head: SentenceHead) -> None:
        self._head = head

    def __call__(self, network: torch.nn.Module, _args: object, kwargs: dict[str, Any], output: Any) -> Any:
        import torch

        hidden = output[0] if not hasattr(output, "last_hidden_state") else output.last_hidden_state
        mask = kwargs["attention_mask"][..., None].to(hidden.dtype)
        total, number = (hidden * mask).sum(1), mask.sum(1).clamp(min=1e-9)
        low = torch.finfo(hidden.dtype).min
        parts = {
            "cls": lambda: hidden[:, 0],
            "max": lambda: hidden.masked_fill(mask == 0, low).amax(1),
            "mean": lambda: total / number,
            "mean_sqrt": lambda: total / number.sqrt(),
        }
        vector = torch.cat([parts[mode]() for mode in self._head.modes], 1)
        for layer, dense in zip(getattr(network, "sentence_dense", ()), self._head.dense):
            vector = getattr(torch, dense["activation"])(layer(vector)) if dense["activation"] else layer(vector)
        return torch.nn.functional.normalize(vector, dim=1) if self._head.normalise else vector


def read_sentence_head(folder: Path) -> SentenceHead | None:
    """The head described by ``modules.json``, or None for a plain transformers folder.

    Raises
    ------
    SourceError
        For a module that is not known (it is never guessed at).
    """
    if not (folder / "modules.json").is_file():
        return None
    head = SentenceHead([])
    try:
        for module in read_json(folder / "modules.json", "modules.json"):
            _add(head, folder, module)
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{folder / 'modules.json'}, or a folder named in it, is damaged: {error!r}.") from error
    return head


def _add(head: SentenceHead, folder: Path, module: dict[str, Any]) -> None:
    kind, path = str(module["type"]).rpartition(".")[2], folder / str(module.get("path", ""))
    if kind == "Transformer":
        settings = folder / "sentence_bert_config.json"
        head.max_length = read_json(settings).get("max_seq_length") if settings.is_file() else None
    elif kind == "Pooling":
        head.modes = _modes(path)
    elif kind == "Dense" and not head.normalise:
        head.dense.append(_dense(path, str(module["path"])))
    elif kind == "Normalize":
        head.normalise = True
    else:
        after = " after normalisation" if kind == "Dense" else ""
        raise SourceError(
            f"{folder / 'modules.json'} has a module {module['type']!r}{after}, which headstart does not know."
        )


def _modes(path: Path) -> list[str]:
    config = read_json(path / "config.json", "pooling configuration")
    modes = [mode for key, mode in _MODES.items() if config.get(key)]
    unknown = [k for k, v in config.items() if k.startswith("pooling_mode_") and v and k not in _MODES]
    if unknown or not modes:
        raise SourceError(f"{path} pools by {unknown or 'nothing'}; known are {', '.join(_MODES)}.")
    return modes


def _dense(path: Path, folder: str) -> dict[str, Any]:
    config = read_json(path / "config.json", "dense configuration")
    named = str(config.get("activation_function", "Tanh"))  # the default of sentence-transformers
    activation = named.rpartition(".")[2].lower()
    if activation not in _ACTIVATIONS:
        raise SourceError(f"{path} has the activation {named!r}; known are {', '.join(_ACTIVATIONS)}.")
    return {
        "in": int(config["in_features"]),
        "out": int(config["out_features"]),
        "bias": bool(config.get("bias", True)),
        "activation": "" if activation == "identity" else activation,
        "folder": folder,
    }


_HUB_FILES = ("*.json", "*.safetensors", "1_Pooling/*", "2_Dense/*", "3_Dense/*")
_SMALL_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json", "head.json")


def find_folder(name: str) -> Path:
    """Find a model folder: a local one, one inside an installed package, or one of the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith(("/", "./", "../", "~")) or "\\" in name:
        raise SourceError(f"There is no folder {name}.")
    return _package_folder(name) or _hub_folder(name)


def _package_folder(name: str) -> Path | None:
    """The model folder that an installed package of that name carries."""
    try:
        files = files_of(name) or []
    except (PackageNotFoundError, ValueError):
        return None
    for file in files:
        if file.name == "config.json" and (Path(str(file.locate())).parent / "model.safetensors").is_file():
            return Path(str(file.locate())).parent
    return None


def _hub_folder(name: str) -> Path:
    reason = "the hub has no config.json for it"
    try:
        folder = hub_folder(name, _HUB_FILES, needed="config.json")
        if folder is not None:
            return folder
    except OfflineError as error:
        reason = str(error)
    raise OfflineError(
        f"hf:{name} is no folder, no installed package with a model, not in the local hub cache, and cannot be "
        f"fetched ({reason}). Give a local folder: config.json, tokenizer.json, model.safetensors."
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """The small files that are the model beside its weights."""
    read_json(folder / "config.json", "model folder (config.json)")
    files = {}
    for name in _SMALL_FILES:
        path = folder / name
        if path.is_file():
            files[name] = path.read_bytes()
    head = read_sentence_head(folder)
    if head is not None:
        files["head.json"] = json.dumps(vars(head), sort_keys=True).encode()
    return files


def weights_in(folder: Path) -> Path:
    """Return the weights file of a model folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    shards = sorted(folder.glob("model-*.safetensors"))
    hint = "sharded weights are not read; save the model in one file" if shards else "it has no model.safetensors"
    raise WeightsError(f"{folder}: {hint}.")


def match_names(network: torch.nn.Module, weights: dict[str, Any]) -> dict[str, Any]:
    """Larger models' checkpoints carry the encoder under a prefix (``bert.``); older ones name norms gamma and beta."""
    names = set(network.state_dict())
    prefix = f"{network.base_model_prefix}."
    out = {}
    for name, value in weights.items():
        short = name.removeprefix(prefix) if name not in names else name
        if short not in names:
            short = short.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if short not in names and short.endswith(("weight_g", "weight_v")):
            number = "0" if short.endswith("_g") else "1"
            short = f"{short[: -len('weight_g')]}parametrizations.weight.original{number}"
        out[short] = value
    return out


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    max_length: int | None = None,
    pretrained: bool = True,
    files: Mapping[str, bytes] | None = None,
) -> Source:
    """Load an encoder.

    Parameters
    ----------
    name : str
        A folder, an installed package, or a hub name.
    weights : path, optional
        Other weights for the same architecture.
    max_length : int, optional
        Tokens per text; the model's own limit (at most 512) when not given.
    pretrained : bool
        False leaves initial weights (a control).

    Raises
    ------
    OfflineError, SourceError, WeightsError, MissingPackage
    """
    transformers = extras.require_package("transformers", "for hf: sources")
    if files is not None:
        return _build(name, transformers, dict(files), weights=None, max_length=max_length)
    folder = find_folder(name)
    files_of_folder = files_in(folder)
    file = Path(weights).expanduser() if weights is not None else weights_in(folder) if pretrained else None
    return _build(name, transformers, files_of_folder, weights=file, max_length=max_length)


def _build(
    name: str, transformers: ModuleType, files: dict[str, bytes], *, weights: Path | None, max_length: int | None
) -> Source:
    config = _config(transformers, name, files)
    if config.model_type in SPEECH:
        if max_length is not None:
            raise OptionError(f"max_length= counts the tokens of texts; hf:{name} takes audio.")
        disable_regularization(config)
    with _quiet_transformers():
        network = _network(transformers, name, config)
    if weights is not None:
        fit_weights(network, match_names(network, read_weights(weights)), str(weights), head=("pooler.",))
    if config.model_type in SPEECH:
        return speech_source(name, network, config, files)
    head = SentenceHead(**json.loads(files["head.json"])) if "head.json" in files else None
    input = _input(config, files, network, max_length=max_length, head=head)
    if head is not None:
        head.attach(network)
        if weights is not None:
            head.fill(network, weights.parent)
    meta = {"licence": None, "model_type": config.model_type, "sentence_vector": head is not None}
    return Source(
        address=f"hf:{name}",
        backend=TorchBackend(network.eval(), f"hf:{name}", invoke=partial(_invoke, input.names)),
        input=input,
        rebuild={"family": "hf", "name": str(config.model_type), "options": {"max_length": max_length}},
        meta={k: v for k, v in meta.items() if v},
        files=files,
        minimum_cosine=0.999999,
    )


def _invoke(names: tuple[str, ...], network: torch.nn.Module, tensors: dict[str, Any]) -> Any:
    return network(**{key: tensors[key] for key in names if key in tensors})


def _network(transformers: ModuleType, name: str, config: ModelConfig) -> torch.nn.Module:
    try:
        try:  # BERT's own pooler is no sentence vector: it was trained for next-sentence prediction
            return transformers.AutoModel.from_config(config, trust_remote_code=False, add_pooling_layer=False)
        except TypeError:
            return transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise SourceError(f"hf:{name} cannot be built by transformers: {error}") from error


def _config(transformers: ModuleType, name: str, files: Mapping[str, bytes]) -> ModelConfig:
    try:
        plain = json.loads(files["config.json"])
        kind = plain.pop("model_type")
        plain.pop("auto_map", None)
        plain.pop("torch_dtype", None)
        plain.pop("dtype", None)
        config = transformers.AutoConfig.for_model(kind, **plain)
    except Exception as error:  # a configuration checks its fields with kinds of errors that changed between versions
        raise SourceError(f"config.json of hf:{name} names no architecture that transformers knows: {error}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise SourceError(f"hf:{name} is an encoder-decoder ({config.model_type}); use an encoder.")
    return config


def _input(
    config: ModelConfig,
    files: Mapping[str, bytes],
    network: torch.nn.Module,
    *,
    max_length: int | None,
    head: SentenceHead | None,
) -> TextInput:
    if config.model_type in UNSUPPORTED_AUDIO:
        raise SourceError(f"{config.model_type} takes audio; of these hf: reads {', '.join(SPEECH)}.")
    if "tokenizer.json" not in files:
        raise SourceError(
            "The folder has no tokenizer.json. Save it with a fast tokenizer: "
            "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)."
        )
    limit = getattr(config, "max_position_embeddings", 512) or 512
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= 2  # positions start after the padding number
    length = max_length or min(limit, head.max_length if head and head.max_length else 512)
    if not 1 <= length <= limit:
        raise OptionError(f"max_length must lie between 1 and {limit} for this model; got {length}.")
    takes = network.forward.__code__.co_varnames
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in takes and (getattr(config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")
    pad = getattr(config, "pad_token_id", 0) or 0
    try:
        tokenizer = files["tokenizer.json"].decode()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"The tokenizer.json is damaged: {error}. Save it again, or fetch the model again."
        ) from error
    return TextInput(tokenizer, length, tuple(names), pad)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

"""The end of a sentence encoder in sentence-transformers' form: pooling, dense layers, normalisation.

References
----------
Reimers & Gurevych (2019), Sentence-BERT. The folder's layout: ``modules.json``, ``1_Pooling/config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart._files import read_json
from headstart.errors import SourceError
from headstart.sources._weights import fit_weights, read_weights

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt",
}
_ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh")


@dataclass
class SentenceHead:
    """What follows the encoder: how tokens are pooled, dense layers (size, activation), whether it is normalised."""

    modes: list[str]
    dense: list[dict[str, Any]] = field(default_factory=list)
    normalise: bool = False
    max_length: int | None = None

    def attach(self, network: Any) -> None:
        """Make the network return the sentence vector (items, width) instead of its hidden states."""
        import torch

        layers = [torch.nn.Linear(d["in"], d["out"], bias=d["bias"]) for d in self.dense]
        if layers:
            network.add_module("sentence_dense", torch.nn.ModuleList(layers))
        network.register_forward_hook(_Pool(self), with_kwargs=True)

    def fill(self, network: Any, folder: Path) -> None:
        """Load the dense layers' weights."""
        for number, dense in enumerate(self.dense):
            path = folder / dense["folder"] / "model.safetensors"
            weights = {k.removeprefix("linear."): v for k, v in read_weights(path).items()}
            fit_weights(network.sentence_dense[number], weights, str(path))


class _Pool:
    """A forward hook; a class so that a copied network carries it along."""

    def __init__(self, head: SentenceHead) -> None:
        self._head = head

    def __call__(self, network: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
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

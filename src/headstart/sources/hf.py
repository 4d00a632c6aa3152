"""transformers' encoders of texts and of speech: a local folder, an installed package that carries one, or the hub.

``hf:FOLDER`` reads ``config.json`` and safetensors; ``hf:NAME`` looks for an installed package of that name that
carries a model folder, then in the local hub cache, and asks the network last. A folder in sentence-transformers' form
(``modules.json``) keeps its own pooling, dense layers and normalisation: that vector is the layer ``"output"``.
Otherwise ``"output"`` is the last hidden state, pooled like any other layer. wav2vec2, HuBERT, WavLM and UniSpeech
listen to the waveform (``_speech.py``). No code from a model folder is ever run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from headstart import _extras
from headstart.errors import OptionError, SourceError
from headstart.sources._model_folder import files_in, folder_of, renamed, weights_in
from headstart.sources._sentence import SentenceHead
from headstart.sources._speech import DEAF, SPEECH, speech_source, still
from headstart.sources._text_input import TextInput
from headstart.sources._weights import fit_weights, read_weights
from headstart.sources.base import Source


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
    transformers = _extras.need("transformers", "for hf: sources")
    if files is not None:
        return _build(name, transformers, dict(files), weights=None, max_length=max_length)
    folder = folder_of(name)
    kept = files_in(folder)
    file = Path(weights).expanduser() if weights is not None else weights_in(folder) if pretrained else None
    return _build(name, transformers, kept, weights=file, max_length=max_length)


def _build(
    name: str, transformers: Any, files: dict[str, bytes], *, weights: Path | None, max_length: int | None
) -> Source:
    config = _config(transformers, name, files)
    if config.model_type in SPEECH:
        if max_length is not None:
            raise OptionError(f"max_length= counts the tokens of texts; hf:{name} takes sounds.")
        still(config)
    with _quiet(transformers):
        network = _network(transformers, name, config)
    if weights is not None:
        fit_weights(network, renamed(network, read_weights(weights)), str(weights), head=("pooler.",))
    if config.model_type in SPEECH:
        return speech_source(name, network, config, files)
    head = SentenceHead(**json.loads(files["head.json"])) if "head.json" in files else None
    how = _input(config, files, network, max_length=max_length, head=head)
    if head is not None:
        head.attach(network)
        if weights is not None:
            head.fill(network, weights.parent)
    meta = {"licence": None, "model_type": config.model_type, "sentence_vector": head is not None}
    return Source(
        address=f"hf:{name}",
        network=network.eval(),
        input=how,
        rebuild={"family": "hf", "name": str(config.model_type), "options": {"max_length": max_length}},
        meta={k: v for k, v in meta.items() if v},
        files=files,
        invoke=partial(_invoke, how.names),
        minimum_cosine=0.999999,
    )


def _invoke(names: tuple[str, ...], network: Any, tensors: dict[str, Any]) -> Any:
    return network(**{key: tensors[key] for key in names if key in tensors})


def _network(transformers: Any, name: str, config: Any) -> Any:
    try:
        try:  # BERT's own pooler is no sentence vector: it was trained for next-sentence prediction
            return transformers.AutoModel.from_config(config, trust_remote_code=False, add_pooling_layer=False)
        except TypeError:
            return transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise SourceError(f"hf:{name} cannot be built by transformers: {error}") from error


def _config(transformers: Any, name: str, files: Mapping[str, bytes]) -> Any:
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
    config: Any, files: Mapping[str, bytes], network: Any, *, max_length: int | None, head: SentenceHead | None
) -> TextInput:
    if config.model_type in DEAF:
        raise SourceError(f"{config.model_type} takes sounds; of these hf: reads {', '.join(SPEECH)}.")
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
def _quiet(transformers: Any) -> Any:
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

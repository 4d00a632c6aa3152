"""Predictor.export: source, pooling, heads and probabilities in one ONNX file, compared with the predictor."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._base import extras
from headstart._base.files import write_atomic
from headstart._base.progress import note
from headstart.engines.base import ENGINES, RuntimeConfig, rows_of_batch
from headstart.errors import OptionError, SourceError, StoreError
from headstart.heads.base import LinearHead
from headstart.pooling import reducer
from headstart.predictor.target_model import HeadModel
from headstart.result.record import plain
from headstart.sources.base import Source
from headstart.sources.layers import forward_features
from headstart.sources.onnx.file import METADATA
from headstart.sources.types import Batch

if TYPE_CHECKING:
    import torch

    from headstart.predictor.predictor import Predictor

FORMATS = ("onnx",)
_EXAMPLES, _COMPARED = 2, 5  # another batch size than the one exported with
_TOLERANCE = 1e-3  # of the largest decision; float32 sums in another order stay far below
_CHATTER = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


def export(predictor: Predictor, path: Path, format: str) -> Path:
    """See :meth:`headstart.predictor.Predictor.export`."""
    if format not in FORMATS:
        raise OptionError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    onnx = extras.require_package("onnx", "to export predictors")
    ort = extras.require_package("onnxruntime", "to compare an exported file with the predictor")
    extras.require_package("onnxscript", "to export predictors")
    source = _single(predictor)
    batch = source.input.example(_EXAMPLES)
    if batch.counts is not None:
        raise OptionError(
            f"{source.address} cuts an item into several inputs, which a file for one batch cannot put together again."
        )
    module = _build_model(predictor, source, list(batch.inputs))
    content = _written(module, source, batch, outputs_of(predictor))
    model = onnx.load_model_from_string(content)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(_described(predictor, source))
    content = model.SerializeToString()
    _compare(predictor, source, ort, content)
    write_atomic(path.expanduser(), content)
    return path


def outputs_of(predictor: Predictor) -> list[str]:
    """Names of the file's outputs: one per target; a name alone where there is one target."""
    kinds = ["values" if answer.task == "regression" else "probabilities" for answer in predictor.targets]
    if len(kinds) == 1:
        return kinds
    return [f"{answer.target}.{kind}" for answer, kind in zip(predictor.targets, kinds)]


def _single(predictor: Predictor) -> Any:
    """The one source, when everything can be exported; every reason against it otherwise."""
    problems = []
    used = sorted({part.source for answer in predictor.targets for part in answer.specs})
    if len(used) > 1:
        names = ", ".join(predictor.sources[i].address for i in used)
        problems.append(f"It reads {len(used)} sources ({names}); a file holds one. Fit with one of them.")
    source = predictor.sources[used[0]]
    if "torch" not in source.engines:
        problems.append(f"{source.address} is run by {source.engines[0]}; only torch networks are exported.")
    for answer in predictor.targets:
        if not isinstance(answer, HeadModel):
            problems.append(f"{answer.target!r} is {answer.task}, whose answers are more than numbers per item.")
        elif not answer.head.linear:
            problems.append(
                f"The head {answer.head.name!r} of {answer.target!r} needs its training rows to predict. "
                "Fit with head='logistic', 'ridge' or 'lda'."
            )
        problems += [
            f"pooling={part.pooling!r} at {part.layer} goes item by item, which one graph cannot."
            for part in answer.specs
            if part.pooling == "none" or part.pooling.startswith("segments")
        ]
    if problems:
        raise OptionError("This predictor cannot be exported.\n" + "\n".join(problems))
    return source


def _build_model(predictor: Predictor, source: Source, inputs: Sequence[str]) -> Any:
    """One torch module from the network's input to the answers."""
    import torch

    layers = {part.layer: part.pooling for answer in predictor.targets for part in answer.specs}
    reduce = {name: reducer(pooling, source.layer(name).axes) for name, pooling in layers.items()}

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(source.module).float().eval()
            self.heads = torch.nn.ModuleList([_linear(answer.head) for answer in predictor.targets])

        def forward(self, first: Any, second: Any = None, third: Any = None) -> Any:
            tensors = dict(zip(inputs, (first, second, third)))
            batch = Batch(tensors, mask=_mask(source, tensors))
            backend = source.torch_backend.with_module(self.network)
            layer_outputs = forward_features(backend, tensors, rows_of_batch(reduce, batch), stop=False)
            outputs = []
            for answer, head in zip(predictor.targets, self.heads):
                decision = head(torch.cat([layer_outputs[part.layer].float().flatten(1) for part in answer.specs], 1))
                if answer.task == "classification":
                    decision = decision.softmax(1)
                outputs.append(decision.sigmoid() if answer.task == "multilabel" else decision)
            return tuple(outputs)

    return Whole().eval()


def _linear(head: object) -> torch.nn.Linear:
    """A head as a layer; the temperature is taken into it."""
    import torch

    assert isinstance(head, LinearHead), "_single() refuses all others"
    scale = 1.0 if head.task_ == "regression" else head.temperature_
    layer = torch.nn.Linear(*head.coef_.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(head.coef_.T / scale)))
        layer.bias.copy_(torch.from_numpy(np.asarray(head.intercept_ / scale)))
    return layer


def _mask(source: Source, tensors: Mapping[str, Any]) -> Any:
    """Which positions are real, as the source's own batches say it."""
    if source.modality != "text":
        return None
    mask = tensors.get("attention_mask")
    return (next(iter(tensors.values())) != 0).long() if mask is None else mask


def _written(model: torch.nn.Module, source: Source, batch: Batch, names: list[str]) -> bytes:
    """The module through the dynamo exporter, with an open number of items, and of tokens for texts."""
    import torch

    inputs = source.input.tensors(batch, torch.device("cpu"), torch.float32)
    free = torch.export.Dim.DYNAMIC
    sides = {0: free, 1: free} if source.modality == "text" else {0: free}
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                model,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=names,
                dynamic_shapes=tuple(dict(sides) for _ in inputs),
            )
        return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # the exporter raises what torch.export, dynamo and onnxscript raise
        inner = error.__cause__ or error
        cause = " ".join(str(inner).split()) or type(inner).__name__
        raise SourceError(
            f"torch cannot export {source.address} to ONNX: {type(inner).__name__}: {cause[:300]} "
            "Networks with control flow that depends on the numbers cannot be written as one graph."
        ) from error


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints progress and warns about itself."""
    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _described(predictor: Predictor, source: Source) -> dict[str, Any]:
    """How input is made and what the outputs mean: all that is needed to use the file without headstart."""
    description = source.input.describe()
    targets = [
        {"name": answer.target, "task": answer.task, "output": name, "classes": answer.classes}
        for answer, name in zip(predictor.targets, outputs_of(predictor))
    ]
    metadata: dict[str, Any] = {"modality": source.modality, str(description.pop("kind", "input")): description}
    described: dict[str, Any] = plain({"source": source.address, "input": metadata, "targets": targets})
    return described


def _compare(predictor: Predictor, source: Source, ort: Any, content: bytes) -> None:
    """The file's answers on examples against the predictor's own in fp32; StoreError with figures if they differ."""
    import torch

    batch = source.input.example(_COMPARED)
    inputs = source.input.tensors(batch, torch.device("cpu"), torch.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    named = zip(session.get_inputs(), inputs.values())
    outputs = session.run(None, {argument.name: value.numpy() for argument, value in named})
    layers = {part.layer: part.pooling for answer in predictor.targets for part in answer.specs}
    reduce = {name: reducer(pooling, source.layer(name).axes) for name, pooling in layers.items()}
    rows = ENGINES["torch"](source, reduce, RuntimeConfig("torch", "fp32"))(batch)
    for answer, values in zip(predictor.targets, outputs):
        assert isinstance(answer, HeadModel), "_single() refuses all others"
        X = np.concatenate([np.asarray(rows[part.layer]).reshape(len(batch), -1) for part in answer.specs], 1)
        predictions = answer.infer_rows(X)
        expected = predictions.decisions if answer.task == "regression" else predictions.probabilities
        assert expected is not None  # regression has decisions, all others probabilities
        scale = max(float(np.abs(expected).max()), 1e-12)
        worst = float(np.abs(values - expected).max()) / scale
        if not worst <= _TOLERANCE:
            raise StoreError(
                f"The exported network does not answer like the predictor: for {answer.target!r} they differ by "
                f"{worst:.1e} of the largest value ({_TOLERANCE:g} is allowed), on {len(batch)} examples. Nothing is "
                "written. The exporter gets this network wrong; another version of torch or onnxscript may not."
            )
        note(f"{source.name}: exported; answers for {answer.target!r} differ by at most {worst:.1e}.")

"""``headstart predict`` and ``headstart evaluate``: use a saved predictor, and see how good it is."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

import headstart as hs
from headstart._base.files import did_you_mean, write_atomic
from headstart._base.printing import seconds
from headstart._base.progress import note
from headstart.cli.app import command
from headstart.cli.extract import skipped_items
from headstart.cli.options import Columns, Data, Input, count, count_items, dataset, is_table, load_predictor
from headstart.cli.output import Page, interval, shell_line, short, table, title, with_heading
from headstart.dataset.folders import modality_from_suffix
from headstart.errors import DataError, OptionError

if TYPE_CHECKING:
    from headstart._base.typing import Float
    from headstart.dataset.dataset import Dataset
    from headstart.predictor.predictions import Predictions
    from headstart.predictor.predictor import Predictor as SavedPredictor
    from headstart.predictor.target_model import TargetModel
    from headstart.result.result import Result

PANEL = "Work"
_MOST_ROWS, _MOST_CLASSES, _MOST_LETTERS, _MOST_REASONS = 50, 12, 60, 5
Predictor = Annotated[Path, typer.Argument(metavar="PREDICTOR", show_default=False, help="What fit saved.")]


@command("predict", PANEL, listed=True)
def predict(
    predictor: Predictor,
    items: Annotated[
        list[str],
        typer.Argument(metavar="ITEM", show_default=False, help="Files, folders, a table, or texts in quotes."),
    ],
    *,
    input: Input = None,
    proba: Annotated[bool, typer.Option("--proba", metavar="", help="The probability of every class.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.csv", show_default=False, help="Write a table, too.")
    ] = None,
) -> Page:
    """Predict for files, folders, a table or texts."""
    loaded = load_predictor(predictor)
    data = named_items(items, input, loaded.source.modality)
    rows = _rows(loaded, data, loaded.infer(data, on_error="skip"))
    bad = [(_item_text(row["item"]), row["error"]) for row in rows if "error" in row]
    if len(bad) == len(rows):
        shown = [f"{item}: {reason}" for item, reason in bad[:_MOST_REASONS]]
        more = ["…"] * (len(bad) > len(shown))
        raise DataError("\n".join(["Nothing that was given could be read, so nothing is predicted.", *shown, *more]))
    document = {"predictor": str(predictor), "predictions": rows}
    if output is not None:
        _write_csv(rows, output.expanduser())
        document["output"] = str(output)
    names = [answer.target for answer in loaded.targets]
    long = len(names) == 1 and loaded.targets[0].task == "summarization"
    blocks: list[Any] = _texts(rows) if long else [_prediction_table(rows, names, proba=proba)]
    if len(rows) > _MOST_ROWS:
        blocks.append(f"… and {len(rows) - _MOST_ROWS:,} more. -o FILE.csv or --json gives all of them.")
    if bad:
        blocks.append(skipped_items(bad, len(rows)))
    if output is not None:
        following = f"open {short(output)}: {count(len(rows), 'row')}"
    else:
        again = [word if len(word) <= _MOST_LETTERS or _exists_as(Path(word), "file") else "TEXT" for word in items[:1]]
        following = shell_line("predict", short(predictor), *again, "-o", "predictions.csv")
    return Page(document, blocks, [following])


def named_items(words: Sequence[str], input: str | None, modality: str) -> Dataset:
    """Make a Dataset of a table's rows, the files of folders, single files, or the words themselves as texts."""
    kind = hs.Dataset
    if len(words) == 1 and (input is not None or is_table(words[0])):
        return kind.from_table(words[0], input).without_targets()
    if input is not None:
        raise OptionError("--input goes with one table.")
    if tables := [word for word in words if is_table(word) and _exists_as(Path(word), "file")]:
        raise OptionError(f"Give a table alone, and one at a time; got {tables[0]} among {len(words)} words.")
    items: list[Any] = []
    for word in words:
        path = Path(os.path.expanduser(word))  # Path's own raises for a text that begins with ~
        if word and _exists_as(path, "dir"):  # "" is an empty text, not the folder we are in
            items += _inside(path, modality)
        elif modality == "text" and not _exists_as(path, "file"):
            items.append(word)
            if is_table(word) or modality_from_suffix(word) is not None:
                note(f"There is no file {word}: it is taken as a text.{did_you_mean(path)}")
        else:
            items.append(path)
    missing = [str(path) for path in items if isinstance(path, Path) and not _exists_as(path, "file")]
    if missing and len(missing) == len(items):
        hint = did_you_mean(Path(missing[0])) if len(missing) == 1 else ""
        raise DataError(f"There is no file {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}.{hint}")
    return kind.from_items(items, modality)


def _inside(folder: Path, modality: str) -> Sequence[Any]:
    """The files of a folder that the predictor can take."""
    try:
        return hs.Dataset.from_folder(folder, None if modality == "any" else modality).items
    except DataError as error:
        raise DataError(f"The predictor takes files of kind {modality}. {error}") from error


def _exists_as(path: Path, what: str) -> bool:
    try:  # a long text is no path: the system may refuse even to look
        return path.is_dir() if what == "dir" else path.is_file()
    except (OSError, ValueError):
        return False


def _rows(loaded: SavedPredictor, data: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
    """One row per item: its prediction for every target, or the reason why it could not be read."""
    reasons = {skipped.index: skipped.reason for skipped in predictions.skipped}
    labels = _by_target(loaded, predictions.labels)
    with_probabilities = all("proba" in model.outputs for model in loaded.targets)
    probabilities = _by_target(loaded, predictions.probabilities) if with_probabilities else {}
    rows = []
    for i, item in enumerate(data.items):
        row: dict[str, Any] = {"item": str(item) if isinstance(item, (str, Path)) else f"item {i}"}
        if i in reasons:
            rows.append({**row, "label": None, "error": reasons[i]})
            continue
        by_target = {
            model.target: _prediction(model, labels[model.target][i], probabilities.get(model.target), i)
            for model in loaded.targets
        }
        rows.append({**row, **(next(iter(by_target.values())) if len(by_target) == 1 else {"targets": by_target})})
    return rows


def _by_target(loaded: SavedPredictor, values: Any) -> dict[str, Any]:
    return values if isinstance(values, dict) else {loaded.targets[0].target: values}


def _prediction(answer: TargetModel, label: Any, chances: Float | None, index: int) -> dict[str, Any]:
    if chances is None:
        return {"label": label}
    by_class = {str(name): float(p) for name, p in zip(answer.classes or (), chances[index])}
    if answer.task == "multilabel":
        return {"label": list(label), "probabilities": by_class}
    return {"label": label, "probability": by_class[str(label)], "probabilities": by_class}


def _ratio_text(value: Any) -> str | None:
    """None for a share of nothing."""
    return None if np.isnan(float(value)) else f"{value:.3f}"


def _texts(rows: list[dict[str, Any]]) -> list[Any]:
    """Summaries below what they are of: a table has no room for them."""
    return [
        with_heading(_item_text(row["item"]), Text(row["label"]))
        for row in rows[:_MOST_ROWS]
        if row["label"] is not None
    ]


def _item_text(item: str) -> str:
    """A path as short as it can be, or how a text begins: it may be a book."""
    name = short(item) or '""'
    return name if len(name) <= _MOST_LETTERS or _exists_as(Path(item), "file") else f"{name[:_MOST_LETTERS]}…"


def _prediction_table(rows: list[dict[str, Any]], targets: list[str], *, proba: bool) -> Any:
    several = len(targets) > 1
    headers = ["item", *(h for name in targets for h in (name, "p"))] if several else ["item", "label", "probability"]
    shown = []
    for row in rows[:_MOST_ROWS]:
        answers = [row.get("targets", {}).get(name, {}) for name in targets] if several else [row]
        cells = [cell for answer in answers for cell in (_label(answer), _probability_text(answer, proba))]
        shown.append([_item_text(row["item"]), *cells])
    return table(headers, shown, align="l" + "ll" * len(targets))


def _label(row: dict[str, Any]) -> str | None:
    label = row.get("label")
    if isinstance(label, (list, tuple)):
        return ", ".join(map(str, label)) or "none"
    return None if label is None else f"{label:.4g}" if isinstance(label, float) else str(label)


def _probability_text(row: dict[str, Any], every: bool) -> str | None:
    chances = row.get("probabilities")
    if chances and (every or "probability" not in row):
        best = sorted(chances.items(), key=lambda pair: -pair[1])[: _MOST_CLASSES if every else 3]
        return "  ".join(f"{name} {p:.2f}" for name, p in best)
    return None if "probability" not in row else f"{row['probability']:.3f}"


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(flat)
    write_atomic(path, text.getvalue())


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name == "targets":
            for target, inner in value.items():
                out |= _flat(inner, f"{target}.")
        elif name == "probabilities":
            out |= {f"{before}p({label})": round(p, 6) for label, p in value.items()}
        else:
            out[before + name] = "|".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return out


@command("evaluate", PANEL, listed=True)
def evaluate(
    predictor: Predictor,
    data: Data,
    *,
    columns: Columns,
    part: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="test where there is one", help="Only this part of the data."),
    ] = None,
) -> Page:
    """Measure a predictor on labelled data."""
    loaded = load_predictor(predictor)
    items = dataset(data, _as_fitted(loaded, columns) if is_table(data) else columns)
    if part is not None or (items.parts is not None and "test" in items.parts):
        items = items.part(part or "test")
    result = loaded.evaluate(items)
    blocks = [title(short(predictor), count_items(items), seconds(result.cost.get("seconds"))), *result_blocks(result)]
    following = shell_line("predict", short(predictor), "ITEM")
    return Page({"predictor": str(predictor), **result.to_dict(rows=False)}, blocks, [following])


def _as_fitted(loaded: SavedPredictor, columns: Columns) -> Columns:
    """Fill in the target columns and the task of a table from the predictor where the options leave them out."""
    tasks = {answer.task for answer in loaded.targets}
    target = columns.target or [answer.target for answer in loaded.targets]
    return dataclasses.replace(columns, target=target, task=columns.task or (tasks.pop() if len(tasks) == 1 else None))


def result_blocks(result: Result) -> list[Any]:
    """A Result for people: metrics, classes (the worst first), what was left out, notes."""
    rows = [[name, f"{float(m):.3f}", interval(m.low, m.high), "lower is better" if m.better == "lower" else ""]
            for name, m in result.metrics.items()]  # fmt: skip
    blocks: list[Any] = [table(["metric", "value", "95 % interval", ""], rows, align="lrrl", bold=[0])]
    classes = sorted(result.per_class, key=lambda r: 2.0 if np.isnan(float(r.recall)) else float(r.recall))
    if classes:
        names = [r.label if r.column is None else f"{r.column} {r.label}" for r in classes[:_MOST_CLASSES]]
        shown = [[name, r.n, _ratio_text(r.recall), _ratio_text(r.precision)] for name, r in zip(names, classes)]
        more = f", the weakest {_MOST_CLASSES} of {len(classes)}" if len(classes) > _MOST_CLASSES else ", weakest first"
        blocks.append(
            with_heading(f"By class{more}", table(["class", "items", "recall", "precision"], shown, align="lrrr"))
        )
    if result.skipped:
        blocks.append(
            skipped_items(
                [(skipped.item, skipped.reason) for skipped in result.skipped],
                len(result.skipped) + int(result.cost.get("items", 0)),
            )
        )
    blocks += [f"Note: {text}" for text in result.notes]
    return blocks

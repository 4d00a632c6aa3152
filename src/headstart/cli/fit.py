"""``headstart fit``: the main job."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

import headstart as hs
from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.options import (
    LEARN,
    Balance,
    Columns,
    Data,
    Device,
    EachWeights,
    Engine,
    Layers,
    OnError,
    Options,
    Pooling,
    Precision,
    Seed,
    Store,
    count,
    count_items,
    dataset,
    load_source,
    one_of,
    parse_named,
    sources_of,
    training_part,
)
from headstart.cli.output import Page, facts, interval, shell_line, short, table, title, with_heading
from headstart.cli.predict import result_blocks
from headstart.cli.sources import short_address
from headstart.errors import DataError, OptionError
from headstart.heads.base import HEADS
from headstart.policies.base import POLICIES

if TYPE_CHECKING:
    from headstart.dataset.dataset import Dataset
    from headstart.heads.base import Head
    from headstart.predictor.predictor import Predictor
    from headstart.result.result import Result
    from headstart.speech_heads.base import CtcHead

PANEL = "Work"
_MOST_TRIED = 8
_CLASSES = ("accuracy", "balanced_accuracy", "mean_average_precision")
_DECIDES = {**dict.fromkeys(_CLASSES, "error + log-loss"), "r2": "squared error"}  # metric → what settings compete by


@command("fit", PANEL)
def fit(
    data: Data,
    *,
    source: Annotated[
        list[str],
        typer.Option("--source", "-s", metavar="FAMILY:NAME", show_default=False,
                     help="Where features come from; may be repeated: the best are joined. See: headstart sources."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PREDICTOR", show_default=False, help="Where it is saved.")
    ],
    weights: EachWeights = None,
    options: Options = None,
    layers: Layers = None,
    pooling: Pooling = "auto",
    head: Annotated[
        str, typer.Option(metavar="NAME[:…]", rich_help_panel=LEARN,
                          help=f"{one_of(['auto', *HEADS.builtin_names])}, e.g. ridge:alpha=1; "
                               "for transcription linear or bilstm.")
    ] = "auto",
    policy: Annotated[
        str, typer.Option(metavar="NAME[:…]", rich_help_panel=LEARN,
                          help=f"Which weights move: {one_of(['auto', *POLICIES.builtin_names])}, e.g. full:epochs=5; "
                               "auto is frozen without a budget.")
    ] = "auto",
    balance: Balance = "auto",
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", show_default="no fine-tuning", help="For fine-tuning.", rich_help_panel=LEARN),
    ] = None,
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", metavar="", help="Keep the frozen model when tuning does not beat it.",
                           rich_help_panel=LEARN)
    ] = True,
    length: Annotated[
        str | None, typer.Option(metavar="LENGTH", show_default="as the references",
                                 help="Of summaries: 3 sentences, 30 %, or 100 words.", rich_help_panel=LEARN)
    ] = None,
    test_size: Annotated[
        float | None, typer.Option(min=0, metavar="SHARE", show_default=False,
                                   help="Hold out this share (or so many items) and measure on it.",
                                   rich_help_panel="Proof")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="DATA", show_default=False, help="Measure on this data afterwards.",
                                 rich_help_panel="Proof")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", metavar="", help="Keep what the head was solved from: headstart forget needs it.",
                           rich_help_panel=LEARN)
    ] = False,
    columns: Columns,
    store: Store = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    on_error: OnError = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Of fine-tuning; taken up after a kill.",
                                  rich_help_panel=LEARN)
    ] = None,
    seed: Seed = 0,
) -> Page:  # fmt: skip
    """Fit a predictor: find the best layers and head on your data, fine-tune when asked, and save it."""
    check_output(output)
    train, test_set = _parts(data, columns, test_size=test_size, test=test, seed=seed)
    sources = [load_source(address, file, options) for address, file in sources_of(source, weights)]
    begun = time.perf_counter()
    predictor = hs.fit(
        sources, train, layers=layers or "auto", head=parse_named("head", head), policy=parse_named("policy", policy),
        balance=balance, budget=budget, pooling=pooling, guard=guard, length=length, exact=exact, store=store,
        engine=engine, precision=precision, on_error=on_error, random_state=seed, device=device, checkpoint=checkpoint,
    )  # fmt: skip
    spent = time.perf_counter() - begun
    saved = predictor.save(output)
    result = None if test_set is None else predictor.evaluate(test_set)
    return _page(predictor, saved, train, result, spent=spent)


def check_output(output: Path) -> None:
    """Said before the work is done, not after it."""
    path = output.expanduser()
    if path.exists() and not (path / "predictor.json").is_file():
        raise DataError(f"{output} exists and is no saved predictor; it is not overwritten. Give -o another name.")


def _parts(
    data: str, columns: Columns, *, test_size: float | None, test: str | None, seed: int
) -> tuple[Dataset, Dataset | None]:
    """(training data, data to measure on or None): the parts that the data came with, unless told otherwise."""
    if test_size and test is not None:
        raise OptionError("Give --test-size or --test, not both.")
    items = dataset(data, columns)
    if test is not None:
        return training_part(items), dataset(test, columns)
    if test_size:
        return training_part(items).split(test_size if test_size < 1 else round(test_size), random_state=seed)
    if items.parts is not None and "test" in items.parts and "train" in items.parts:
        return items.part("train"), items.part("test")
    return training_part(items), None


def _page(predictor: Predictor, saved: Path, train: Dataset, result: Result | None, *, spent: float) -> Page:
    selection = predictor.chosen.get("selection", {})
    document = {
        "predictor": str(saved),
        "sources": [{"address": s.address, "fingerprint": s.fingerprint} for s in predictor.sources],
        "layers": list(predictor.layers),
        "head": {"name": predictor.head.name, **predictor.head.config()},
        "policy": predictor.chosen.get("policy"),
        "items": len(train),
        "selection": selection,
        "history": dict(predictor.history),
        "seconds": {**predictor.chosen.get("seconds", {}), "total": round(spent, 3)},
        "test": None if result is None else result.to_dict(rows=False),
    }
    classes = predictor.classes
    class_count = count(len(classes), "class") if isinstance(classes, tuple) else ""
    blocks: list[Any] = [
        title(short(saved), count_items(train), class_count, seconds(spent)),
        facts(_chosen(predictor)),
    ]
    for name, picked in selection.items():
        blocks.append(_tried(picked, name if len(selection) > 1 else ""))
    if result is not None:
        blocks += [
            f"Measured on {count(int(result.cost.get('items', 0)), 'item')} that were not used for any choice",
            *result_blocks(result),
        ]
    following = [shell_line("predict", short(saved), "ITEM")]
    if result is None:
        following.append(shell_line("evaluate", short(saved), "TEST-DATA"))
    return Page(document, blocks, following)


def _chosen(predictor: Predictor) -> list[tuple[str, Any]]:
    layers = " + ".join(predictor.layers)
    history = predictor.history
    trained, kind = None, "fine-tuning"
    if history.get("loss"):
        trained = f"{count(len(history['loss']), 'epoch')}, {seconds(sum(history.get('epoch_seconds', ())))}"
        selected = history.get("kept")
        if selected is None:  # a head that is trained; the source stays as it is
            kind = "training"
        else:
            trained += f"; kept: {'frozen' if selected == 'start' else selected}"
    return [
        ("source", ", ".join(short_address(s.address) for s in predictor.sources)),
        ("layers", layers or "none: sentences are chosen by their words and places alone"),
        ("head", _head(predictor.head)),
        (
            "features",
            "; ".join(
                _selected_features(t["kept"]) for t in predictor.chosen.get("selection", {}).values() if "kept" in t
            ),
        ),
        ("length", "; ".join(t["length"] for t in predictor.chosen.get("selection", {}).values() if "length" in t)),
        ("policy", predictor.chosen.get("policy")),
        (kind, trained),
    ]


def _selected_features(table: Sequence[Any]) -> str:
    """Count the features of each layer that have weights."""
    return ", ".join(f"{layer['kept']:,} of {layer['features']:,} of {layer['layer']}" for layer in table)


def _head(head: Head | CtcHead) -> str:
    """The head's name with the fields that are not what they are by default."""
    usual = {field.name: field.default for field in dataclasses.fields(head)}  # type: ignore[arg-type]
    changed = {k: v for k, v in head.config().items() if v != usual.get(k)}
    fields = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in changed.items())
    return f"{head.name} ({fields})" if fields else str(head.name)


def _tried(picked: Mapping[str, Any], name: str) -> Any:
    """Table of the candidates, cross-validated on the training data, the best first; the selected one in bold."""
    rows = list(picked.get("table", ()))
    chosen = next((i for i, row in enumerate(rows) if row["layers"] == picked.get("layers")), None)
    shown = rows[:_MOST_TRIED]
    if chosen is not None and chosen >= _MOST_TRIED:
        shown[-1], chosen = rows[chosen], _MOST_TRIED - 1
    body = [
        [
            "→" if i == chosen else "",
            row["layers"],
            row["head"],
            None if row["score"] is None else f"{row['score']:.3f}",
            interval(row["low"], row["high"]),
        ]
        for i, row in enumerate(shown)
    ]
    more = f", the first {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    heading = f"{name + ': w' if name else 'W'}hat was tried, cross-validated on the training data{more}"
    tried = table(["", "layers", "head", "score", "95 % interval"], body, align="lllrl", keep=1,
                  bold=() if chosen is None else [chosen])  # fmt: skip
    why = "" if chosen is None else _why(picked, rows)
    return with_heading(heading, Group(tried, Text(why, style="dim")) if why else tried)


def _why(picked: Mapping[str, Any], rows: Sequence[Any]) -> str:
    """Why the choice is not the row with the highest score, where it is not; rows are in the order of what decides."""
    chosen = next(row for row in rows if row["layers"] == picked["layers"])
    scores = [row["score"] for row in rows if row["score"] is not None]
    if picked.get("metric") not in _DECIDES or chosen["score"] in (None, max(scores, default=None)):
        return ""
    by = _DECIDES[picked["metric"]]
    if chosen is rows[0]:
        return f"→ is not the highest score: {by} decides, which tells more on few items."
    return f"→ is not the highest score: no row above is clearly better in {by}, and then the safer choice is taken."

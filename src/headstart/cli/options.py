"""Options that several commands share, and how words on the command line become the library's values."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import headstart as hs
from headstart._base.files import did_you_mean
from headstart._base.registry import Family, check_names
from headstart._base.typing import TASKS
from headstart.dataset.folders import modality_from_suffix
from headstart.dataset.tables import SUFFIXES
from headstart.engines.base import ENGINES, PRECISIONS
from headstart.errors import DataError, OptionError, SourceError, StoreError
from headstart.imbalance import BALANCES

if TYPE_CHECKING:
    from headstart.dataset.dataset import Dataset
    from headstart.predictor.predictor import Predictor
    from headstart.sources.base import Source as SourceModel

# What commands need beyond the public names; a table of strings, so that --help loads no torch.
LIBRARY = Family(
    "library",
    {
        "CTC": "headstart.speech_heads.base:CTC",
        "SOURCES": "headstart.sources.base:SOURCES",
        "demo": "headstart.demo.demo:demo",
        "repair_torchvision": "headstart.sources.timm:repair_torchvision",
    },
)

_DATA, _HOW, _FEATURES = "About the data", "How it is run", "Features"
LEARN = "How it is learned"


def one_of(names: Iterable[str]) -> str:
    """Names for a help text.

    >>> one_of(["auto", "fp32", "bf16"])
    'auto, fp32 or bf16'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}"


Data = Annotated[str, typer.Argument(metavar="DATA", show_default=False,
    help="A folder of class folders, or a table (csv, tsv, jsonl, parquet).")]  # fmt: skip
Source = Annotated[str, typer.Option("--source", "-s", metavar="FAMILY:NAME", show_default=False,
    help="Where the features come from, e.g. timm:mobilenetv2_100; see: headstart sources.")]  # fmt: skip
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Local weights (safetensors or pth).",
    rich_help_panel=_FEATURES)]  # fmt: skip
EachWeights = Annotated[list[Path] | None, typer.Option("--weights", metavar="FILE", show_default=False,
    help="Local weights, one per source.", rich_help_panel=_FEATURES)]  # fmt: skip
Options = Annotated[list[str] | None, typer.Option("--options", metavar="KEY=VALUE", show_default=False,
    help="An option of the source's family; may be repeated.", rich_help_panel=_FEATURES)]  # fmt: skip
Layers = Annotated[list[str] | None, typer.Option("--layers", "-l", metavar="LAYER", show_default="auto",
    help="A name, a pattern such as 'blocks.*', auto, last or all; may be repeated.",
    rich_help_panel=_FEATURES)]  # fmt: skip
Pooling = Annotated[str, typer.Option(metavar="NAME", help="How a map becomes a row: avg, max, cls, flatten, …",
    rich_help_panel=_FEATURES)]  # fmt: skip
Input = Annotated[str | None, typer.Option("--input", metavar="COLUMN", show_default=False,
    help="The table's column with paths or texts.", rich_help_panel=_DATA)]  # fmt: skip
Target = Annotated[list[str] | None, typer.Option("--target", metavar="COLUMN", show_default=False,
    help="The table's column with labels; may be repeated.", rich_help_panel=_DATA)]  # fmt: skip
Groups = Annotated[str | None, typer.Option(metavar="COLUMN", show_default=False,
    help="The column with what must not be torn apart (speaker, patient).", rich_help_panel=_DATA)]  # fmt: skip
Split = Annotated[str | None, typer.Option(metavar="COLUMN", show_default=False,
    help="The column that says train or test.", rich_help_panel=_DATA)]  # fmt: skip
Task = Annotated[str | None, typer.Option(metavar="TASK", show_default=False,
    help=f"Where it cannot be guessed: {one_of(TASKS)}.", rich_help_panel=_DATA)]  # fmt: skip
Modality = Annotated[str | None, typer.Option(metavar="KIND", show_default=False,
    help="image, audio or text, when a folder holds several.", rich_help_panel=_DATA)]  # fmt: skip
Store = Annotated[Path | None, typer.Option(metavar="FOLDER", show_default="your cache folder",
    help="Where features are kept.", rich_help_panel=_HOW)]  # fmt: skip
Engine = Annotated[str, typer.Option(metavar="NAME",
    help=f"What runs the network: {one_of(['auto', *ENGINES.builtin_names])}; auto measures once and remembers.",
    rich_help_panel=_HOW)]  # fmt: skip
Precision = Annotated[str, typer.Option(metavar="NAME", help=f"Of the network: {one_of(['auto', *PRECISIONS])}.",
    rich_help_panel=_HOW)]  # fmt: skip
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps, or auto.", rich_help_panel=_HOW)]
OnError = Annotated[str | None, typer.Option("--on-error", metavar="skip|raise", show_default="skip for files",
    help="What to do with an item that cannot be read.", rich_help_panel=_HOW)]  # fmt: skip
Balance = Annotated[str, typer.Option(metavar="NAME", help=f"For uneven classes: {one_of(BALANCES.names)}.",
    rich_help_panel=LEARN)]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Same seed, same machine: same result.",
    rich_help_panel=_HOW)]  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Options about the data. A command that takes ``columns: Columns`` has an option for each field."""

    input: Input = None
    target: Target = None
    groups: Groups = None
    split: Split = None
    task: Task = None
    modality: Modality = None


def is_table(data: str) -> bool:
    """True if DATA names a table rather than a folder or another file."""
    return Path(data).suffix.lower() in SUFFIXES and not Path(data).expanduser().is_dir()


def dataset(data: str, columns: Columns) -> Dataset:
    """DATA and its options → Dataset."""
    if is_table(data) or (Path(data).expanduser().is_file() and modality_from_suffix(data) is None):
        target = list(columns.target or ()) or None
        return hs.Dataset.from_table(
            data, columns.input, target, task=columns.task, groups=columns.groups, split=columns.split,
            modality=columns.modality,
        )  # fmt: skip
    table_options = [f"--{name}" for name in ("input", "target", "groups", "split", "task") if getattr(columns, name)]
    if table_options:
        raise OptionError(f"{', '.join(table_options)} is for tables ({', '.join(SUFFIXES)}); {data} is not one.")
    return hs.Dataset.from_folder(data, columns.modality)


def need_file_name(output: Path | None, example: str) -> None:
    """DataError where ``-o`` names a folder: said before the work is done, not after it."""
    if output is not None and output.expanduser().is_dir():
        raise DataError(f"{output} is a folder; -o takes the name of a file, such as {example}.")


def training_part(items: Dataset) -> Dataset:
    """The part that is there to learn from: ``train`` where the data came in parts, else all of it."""
    return items.part("train") if items.parts is not None and "train" in items.parts else items


def sources_of(addresses: Sequence[str], weights: Sequence[Path] | None) -> list[tuple[str, Path | None]]:
    """Every ``--source`` with its ``--weights``.

    Raises
    ------
    OptionError
        When there are weights for some only.
    """
    if weights and len(weights) != len(addresses):
        raise OptionError(f"Give one --weights per --source: there are {len(addresses)} and {len(weights)}.")
    return list(zip(addresses, weights or [None] * len(addresses)))  # type: ignore[list-item]


def parse_pairs(words: Sequence[str] | None, what: str = "--options") -> dict[str, Any]:
    """``["pad_type=same", "in_chans=1"]`` → ``{"pad_type": "same", "in_chans": 1}``.

    >>> parse_pairs(["a=1", "b=same", "c=[1, 2]", "d=True", "e=none"])
    {'a': 1, 'b': 'same', 'c': [1, 2], 'd': True, 'e': None}
    """
    values = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"{what} takes KEY=VALUE, e.g. pad_type=same; got {word!r}.")
        values[key.strip()] = _value(value.strip())
    return values


def _value(text: str) -> Any:
    plain = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_named(family: str, text: str) -> Any:
    """``"ridge:alpha=1.0"`` or ``"full:epochs=5,lr=3e-4"`` → the head or policy; a bare name stays a name."""
    name, colon, fields = text.partition(":")
    if not colon:
        return text
    make = hs.ctc if family == "head" and name in LIBRARY["CTC"] else {"head": hs.head, "policy": hs.policy}[family]
    return make(name, **parse_pairs([part for part in fields.split(",") if part.strip()], f"--{family} {name}:"))


def load_source(address: str, weights: Path | None, options: Sequence[str] | None) -> SourceModel:
    """A source by address; a folder may be given as it is, without its family.

    Raises
    ------
    UnknownName
        When the family has no such option.
    """
    address = _address(address)
    family = address.partition(":")[0]
    arguments: dict[str, Any] = {} if weights is None else {"weights": weights.expanduser()}
    if ":" in address and (weights is not None or options):
        parameters = list(inspect.signature(LIBRARY["SOURCES"][family]).parameters)[1:]
        values = parse_pairs(options)
        arguments |= {"options": values} if "options" in parameters and values else values
        check_names(f"options of {family}: sources", arguments, parameters)
    return hs.load_source(address, **arguments)


def load_predictor(path: Path) -> Predictor:
    """Load a saved predictor.

    Raises
    ------
    StoreError
        When there is none, or it is damaged.
    """
    path_or_text = path.expanduser()
    if not path_or_text.exists():
        raise StoreError(f"There is no saved predictor {path}.{did_you_mean(path_or_text)}")
    return hs.load(path_or_text)


def _address(text: str) -> str:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        if ":" not in text and ("/" in text or os.sep in text):
            raise SourceError(f"There is no folder {text}.{did_you_mean(folder)} A source is a folder, or FAMILY:NAME.")
        return text
    if (folder / "predictor.json").is_file():
        raise SourceError(f"{text} is a saved predictor, not a source. Its source is saved:{folder / 'sources' / '0'}")
    if (folder / "source.json").is_file():
        return f"saved:{folder}"
    return f"timm:{folder}" if (folder / "config.json").is_file() else text


def count(number: int, what: str) -> str:
    """``1 image``, ``600 images``.

    >>> count(1, "class"), count(3, "class"), count(2000, "image"), count(2, "category")
    ('1 class', '3 classes', '2,000 images', '2 categories')
    """
    plural = f"{what}es" if what.endswith("s") else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def count_items(data: Dataset) -> str:
    """``600 images``, for a heading."""
    return count(len(data), {"audio": "audio clip"}.get(data.modality, data.modality))

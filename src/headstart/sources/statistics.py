"""Statistics of a source on its own training data: moments of its features per layer, in a folder beside the weights.

Optional everywhere. ``moments/statistics.json`` names the source they belong to (by fingerprint) and how features were
pooled; one file of moments per layer is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._base.files import read_json, write_json
from headstart._base.progress import note
from headstart.errors import StoreError
from headstart.moments.moments import Moments

if TYPE_CHECKING:
    from headstart.sources.base import Source

FOLDER = "moments"
_RECORD = "statistics.json"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of a source's features on data that it was trained on (or data like it).

    Attributes
    ----------
    fingerprint : str
        Of the source.
    data : str
        Fingerprint of the dataset.
    items : int
    poolings : mapping of str to str
        Layer → how its maps became rows.
    classes : tuple of str, or None
        Of the targets, in the order of the moments' columns.
    """

    fingerprint: str
    data: str
    items: int
    poolings: Mapping[str, str]
    classes: tuple[str, ...] | None = None
    _loaded: dict[str, Moments] = field(default_factory=dict, repr=False)
    _files: Mapping[str, Path] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers there are moments of."""
        return tuple(self.poolings)

    def moments(self, layer: str) -> Moments:
        """The moments of a layer: features and, where the data had them, targets.

        Raises
        ------
        StoreError
            When its file is missing or damaged.
        """
        if layer not in self._loaded:
            self._loaded[layer] = Moments.load(self._files[layer])
        return self._loaded[layer]

    def save(self, folder: str | Path) -> Path:
        """Write them beside a source: ``FOLDER/moments/``; the record goes last."""
        root = Path(folder).expanduser() / FOLDER
        files = {layer: f"{number:03}.safetensors" for number, layer in enumerate(self.layers)}
        for layer, name in files.items():
            self.moments(layer).save(root / name)
        record = {
            "format": _FORMAT,
            "source": self.fingerprint,
            "data": self.data,
            "items": self.items,
            "classes": None if self.classes is None else list(self.classes),
            "layers": {layer: {"file": files[layer], "pooling": self.poolings[layer]} for layer in files},
        }
        write_json(root / _RECORD, record)
        return root

    @classmethod
    def load(cls, folder: str | Path) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StoreError
            When it is no such folder, or of another format.
        """
        root = Path(folder).expanduser() / FOLDER
        record: Any = read_json(root / _RECORD, "source statistics")
        try:
            if record["format"] != _FORMAT:
                raise ValueError(f"its format is {record['format']}, this version reads {_FORMAT}")
            layers = {str(name): dict(entry) for name, entry in record["layers"].items()}
            files = {name: root / Path(entry["file"]).name for name, entry in layers.items()}
            poolings = {name: str(entry["pooling"]) for name, entry in layers.items()}
            classes = record["classes"]
            return cls(
                str(record["source"]), str(record["data"]), int(record["items"]), poolings,
                None if classes is None else tuple(map(str, classes)), {}, files,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{root / _RECORD} is no record of source statistics: {error}.") from error


def statistics_of(source: Source) -> Statistics | None:
    """The statistics that came with a source: its own, or those in its folder; None where there are none.

    Those of other weights (a fine-tuned copy has another fingerprint) do not count, and damaged ones are told of.
    """
    statistics = source.statistics
    if statistics is None:
        folder = Path(source.address.partition(":")[2]).expanduser()
        if not (folder / FOLDER / _RECORD).is_file():
            return None
        try:
            statistics = Statistics.load(folder)
        except StoreError as error:
            note(f"Statistics of {source.name} are left out: {error}")
            return None
    return statistics if statistics.fingerprint == source.fingerprint else None

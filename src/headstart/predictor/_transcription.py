"""What is said in a clip, written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from headstart.ctc import Recogniser
from headstart.dataset import Target
from headstart.errors import DataError
from headstart.metrics import assess
from headstart.predictor._answer import Answer, need
from headstart.predictor._features import Part, Rows
from headstart.result import Result


@dataclass(frozen=True, eq=False)
class Transcription(Answer):
    """A CTC head on the frames of one layer."""

    task = "transcription"

    recogniser: Recogniser

    @property
    def classes(self) -> None:
        """There are none."""
        return None

    @property
    def solver(self) -> Any:
        """The CTC head."""
        return self.recogniser.head

    @property
    def width(self) -> int:
        """No numbers per item."""
        return 0

    def labels(self, rows: Rows) -> Sequence[str]:
        """One text per item."""
        (part,) = self.parts
        return self.recogniser.texts(rows.at[part.source, part.layer])

    def numbers(self, kind: str, rows: Rows) -> np.ndarray:
        """Never asked for."""
        raise NotImplementedError(kind)

    def truth(self, column: Target) -> list[Any]:
        """The column's texts."""
        strange = [value for value in column.values if value is not None and not isinstance(value, str)]
        if strange:
            raise DataError(
                f"The predictor does transcription, but {column.name!r} is {column.task}, e.g. {strange[0]!r}. "
                "Give texts, and say task='transcription'."
            )
        return list(column.values)

    def assessed(self, truth: list[Any], rows: Rows) -> Result:
        """Word and character error rate."""
        return assess("transcription", truth, self.labels(rows))

    def record(self) -> dict[str, Any]:
        """Head and alphabet as plain data."""
        return self.recogniser.record()

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights."""
        return self.recogniser.arrays()

    @classmethod
    def rebuilt(
        cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, target: str, parts: tuple[Part, ...]
    ) -> Self:
        """From what was saved."""
        need(len(parts) == 1 and parts[0].pooling == "frames", "a layer")
        return cls(target, parts, Recogniser.rebuilt(record, arrays))

"""Answers that are texts, one per item: what summarization and transcription share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from headstart.dataset.targets import Target
from headstart.errors import DataError
from headstart.predictor.target_model import TargetModel


@dataclass(frozen=True, eq=False)
class TextModel(TargetModel):
    """A text per item: no classes, no numbers.

    Attributes
    ----------
    wanted : str
        What the column to compare with must hold, to complete "Give …".
    """

    wanted: ClassVar[str]

    @property
    def classes(self) -> None:
        """None: texts have none."""
        return None

    @property
    def width(self) -> int:
        """No numbers are given."""
        return 0

    def truth(self, column: Target) -> list[Any]:
        """The column's texts."""
        strange = [value for value in column.values if value is not None and not isinstance(value, str)]
        if strange:
            raise DataError(
                f"The predictor does {self.task}, but {column.name!r} is {column.task}, e.g. {strange[0]!r}. "
                f"Give {self.wanted}, and say task={self.task!r}."
            )
        return list(column.values)

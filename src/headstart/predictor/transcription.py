"""What is said in a clip, written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from headstart._base.constraints import check_saved
from headstart.extraction.features import FeatureSet, FeatureSpec
from headstart.metrics.evaluate import assess
from headstart.predictor.text_models import TextModel
from headstart.result.result import Result
from headstart.speech_heads.recogniser import Recogniser


@dataclass(frozen=True, eq=False)
class Transcription(TextModel):
    """A CTC head on the frames of one layer."""

    task = "transcription"
    wanted = "texts"

    recogniser: Recogniser

    @property
    def solver(self) -> Any:
        """The CTC head."""
        return self.recogniser.head

    def labels(self, rows: FeatureSet) -> Sequence[str]:
        """One text per item."""
        (part,) = self.parts
        return self.recogniser.texts(rows.at[part.source, part.layer])

    def assessed(self, truth: list[Any], rows: FeatureSet) -> Result:
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
        cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, target: str, parts: tuple[FeatureSpec, ...]
    ) -> Self:
        """From what was saved."""
        check_saved(len(parts) == 1 and parts[0].pooling == "frames", "a layer")
        return cls(target, parts, Recogniser.rebuilt(record, arrays))

"""Transcription: a CTC head on the frames of one layer writes down what is said in a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from headstart._base.constraints import check_saved
from headstart._base.typing import Array
from headstart.extraction.features import FeatureSet, FeatureSpec
from headstart.metrics.evaluate import assess
from headstart.predictor.predictions import TargetPredictions
from headstart.predictor.target_model import TextModel
from headstart.result.result import Result
from headstart.speech_heads.base import CtcHead
from headstart.speech_heads.recogniser import Recogniser


@dataclass(frozen=True, eq=False)
class Transcription(TextModel):
    """A CTC head on the frames of one layer."""

    task = "transcription"
    expected = "texts"

    recogniser: Recogniser

    @property
    def head(self) -> CtcHead:
        """The CTC head."""
        return self.recogniser.head

    def infer(self, features: FeatureSet) -> TargetPredictions:
        """One text per item."""
        (spec,) = self.specs
        return TargetPredictions(self.recogniser.texts(features.rows[spec.source, spec.layer]))

    def evaluate(self, labels: list[Any], features: FeatureSet) -> Result:
        """Word and character error rate."""
        return assess("transcription", labels, self.infer(features).labels)

    def state(self) -> dict[str, Array]:
        """Weights of the CTC head."""
        return self.recogniser.state()

    def _task_config(self) -> dict[str, Any]:
        return self.recogniser.config()

    @classmethod
    def _from_task_config(
        cls, config: Mapping[str, Any], state: Mapping[str, Array], *, target: str, specs: tuple[FeatureSpec, ...]
    ) -> Self:
        check_saved(len(specs) == 1 and specs[0].pooling == "frames", "a layer")
        return cls(target, specs, Recogniser.from_config(config, state))

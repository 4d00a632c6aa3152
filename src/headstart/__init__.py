"""headstart: transfer learning by feature extraction.

Compute features once, solve a head, fine-tune when it pays, prove that it helped::

    import headstart as hs

    train, test = hs.Dataset.from_folder("photos/").split(test_size=0.25, random_state=0)
    predictor = hs.fit(hs.load_source("timm:mobilenetv2_100"), train, random_state=0)
    result = predictor.evaluate(test)

The door is lazy: a name's module loads when the name is first used, so ``import headstart`` costs milliseconds and no
torch. A new public name is one line in ``_NAMES`` and one in the block for type checkers below it, both sorted;
``tests/test_door.py`` compares them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "DataError": "headstart.errors:DataError",
    "Dataset": "headstart.dataset.dataset:Dataset",
    "FeatureBank": "headstart.bank.bank:FeatureBank",
    "FeatureExtractor": "headstart.estimators:FeatureExtractor",
    "HeadstartError": "headstart.errors:HeadstartError",
    "HeadstartWarning": "headstart.errors:HeadstartWarning",
    "Layer": "headstart.sources.types:Layer",
    "Metric": "headstart._base.intervals:Metric",
    "MissingPackage": "headstart.errors:MissingPackage",
    "Moments": "headstart.moments.moments:Moments",
    "NotFitted": "headstart.errors:NotFitted",
    "NumericsError": "headstart.errors:NumericsError",
    "OfflineError": "headstart.errors:OfflineError",
    "OptionError": "headstart.errors:OptionError",
    "Policy": "headstart.policies.base:Policy",
    "Predictor": "headstart.predictor.predictor:Predictor",
    "Proof": "headstart.result.proof:Proof",
    "Ranking": "headstart.result.ranking:Ranking",
    "Result": "headstart.result.result:Result",
    "Source": "headstart.sources.base:Source",
    "SourceError": "headstart.errors:SourceError",
    "StoreError": "headstart.errors:StoreError",
    "TransferClassifier": "headstart.estimators:TransferClassifier",
    "TransferRegressor": "headstart.estimators:TransferRegressor",
    "UnknownName": "headstart.errors:UnknownName",
    "UnreadableItem": "headstart.errors:UnreadableItem",
    "UnsafeFile": "headstart.errors:UnsafeFile",
    "WeightsError": "headstart.errors:WeightsError",
    "ctc": "headstart.speech_heads.base:ctc",
    "distance": "headstart.distances.base:distance",
    "extract": "headstart.extraction.extract:extract",
    "fit": "headstart.transfer.fit:fit",
    "head": "headstart.heads.base:head",
    "load": "headstart.predictor.loading:load",
    "load_source": "headstart.sources.base:load_source",
    "policy": "headstart.policies.base:policy",
    "pretrain": "headstart.pretraining.pretrain:pretrain",
    "prove": "headstart.proof.prove:prove",
    "rank": "headstart.ranking.rank:rank",
    "report": "headstart.reporting.render:report",
    "score": "headstart.scores.base:score",
    "source_statistics": "headstart.extraction.source_statistics:source_statistics",
}

if TYPE_CHECKING:
    from headstart._base.intervals import Metric as Metric
    from headstart.bank.bank import FeatureBank as FeatureBank
    from headstart.dataset.dataset import Dataset as Dataset
    from headstart.distances.base import distance as distance
    from headstart.errors import DataError as DataError
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.errors import HeadstartWarning as HeadstartWarning
    from headstart.errors import MissingPackage as MissingPackage
    from headstart.errors import NotFitted as NotFitted
    from headstart.errors import NumericsError as NumericsError
    from headstart.errors import OfflineError as OfflineError
    from headstart.errors import OptionError as OptionError
    from headstart.errors import SourceError as SourceError
    from headstart.errors import StoreError as StoreError
    from headstart.errors import UnknownName as UnknownName
    from headstart.errors import UnreadableItem as UnreadableItem
    from headstart.errors import UnsafeFile as UnsafeFile
    from headstart.errors import WeightsError as WeightsError
    from headstart.estimators import FeatureExtractor as FeatureExtractor
    from headstart.estimators import TransferClassifier as TransferClassifier
    from headstart.estimators import TransferRegressor as TransferRegressor
    from headstart.extraction.extract import extract as extract
    from headstart.extraction.source_statistics import source_statistics as source_statistics
    from headstart.heads.base import head as head
    from headstart.moments.moments import Moments as Moments
    from headstart.policies.base import Policy as Policy
    from headstart.policies.base import policy as policy
    from headstart.predictor.loading import load as load
    from headstart.predictor.predictor import Predictor as Predictor
    from headstart.pretraining.pretrain import pretrain as pretrain
    from headstart.proof.prove import prove as prove
    from headstart.ranking.rank import rank as rank
    from headstart.reporting.render import report as report
    from headstart.result.proof import Proof as Proof
    from headstart.result.ranking import Ranking as Ranking
    from headstart.result.result import Result as Result
    from headstart.scores.base import score as score
    from headstart.sources.base import Source as Source
    from headstart.sources.base import load_source as load_source
    from headstart.sources.types import Layer as Layer
    from headstart.speech_heads.base import ctc as ctc
    from headstart.transfer.fit import fit as fit

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, _, attribute = _NAMES[name].partition(":")
        value = getattr(import_module(module), attribute)
        globals()[name] = value
        return value
    if name == "__version__":
        return import_module("importlib.metadata").version("headstart")
    if name.startswith("_"):  # probes of tools: __path__, __wrapped__, …
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    unknown_name = import_module("headstart._base.registry").unknown_name
    raise AttributeError(unknown_name("names of headstart", name, list(_NAMES)))


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, "__version__"})

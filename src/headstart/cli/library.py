"""The library as the command line sees it: verb → where it lives. Nothing loads until a command asks for it."""

from __future__ import annotations

from headstart._base.registry import Family

LIBRARY = Family(
    "library",
    {
        "CTC": "headstart.speech_heads.base:CTC",
        "Dataset": "headstart.dataset:Dataset",
        "ENGINES": "headstart.engines.base:ENGINES",
        "SOURCES": "headstart.sources.base:SOURCES",
        "ctc": "headstart.speech_heads.base:ctc",
        "demo": "headstart.demo:demo",
        "extract": "headstart.extraction:extract",
        "fit": "headstart.transfer:fit",
        "head": "headstart.heads.base:head",
        "load": "headstart.predictor:load",
        "load_source": "headstart.sources.base:load_source",
        "policy": "headstart.policies.base:policy",
        "pretrain": "headstart.pretraining:pretrain",
        "prove": "headstart.proof:prove",
        "rank": "headstart.ranking:rank",
        "reading": "headstart.extraction:reading",
        "repair_torchvision": "headstart.sources.timm:repair_torchvision",
        "report": "headstart.reporting:report",
    },
)

"""The library as the command line sees it, beyond the public names: nothing loads until a command asks for it."""

from __future__ import annotations

from headstart._base.registry import Family

LIBRARY = Family(
    "library",
    {
        "CTC": "headstart.speech_heads.base:CTC",
        "SOURCES": "headstart.sources.base:SOURCES",
        "demo": "headstart.demo.demo:demo",
        "reading": "headstart.extraction.loading:reading",
        "repair_torchvision": "headstart.sources.timm:repair_torchvision",
    },
)

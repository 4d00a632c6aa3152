"""headstart: transfer learning by feature extraction.

Compute features once, solve a head, fine-tune when it pays, prove that it helped::

    import headstart as hs

    train, test = hs.Dataset.from_folder("photos/").split(test_size=0.25, random_state=0)
    predictor = hs.fit(hs.load_source("timm:mobilenetv2_100"), train, random_state=0)
    result = predictor.evaluate(test)

The door is lazy (SPEC 1): the public names stand in ``__init__.pyi``, which type checkers read, and a name's module
loads when the name is first used, so ``import headstart`` costs milliseconds and no torch. A new public name is one
line there.
"""

from __future__ import annotations

from importlib import import_module

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    if name == "__version__":
        return import_module("importlib.metadata").version("headstart")
    if name.startswith("_"):  # probes of tools: __path__, __wrapped__, …
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    unknown = import_module("headstart._base.registry").unknown_name
    raise AttributeError(unknown("names of headstart", name, __all__))

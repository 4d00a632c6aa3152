"""Every error that headstart raises on purpose, in one tree. Floor 0: imports nothing of the project.

::

    HeadstartError
    ├── DataError (ValueError)               the data given cannot be used as asked
    │   └── UnreadableItem (DataError)       one file, text or clip cannot be decoded
    ├── OptionError (ValueError)             a parameter has a value that is not allowed
    │   └── UnknownName (LookupError)        a name is not in the family's table
    ├── MissingPackage (ImportError)         an optional package is not installed
    ├── SourceError (ValueError)             a source cannot be loaded or cannot do what was asked
    │   ├── WeightsError                     weights do not fit the network, or are damaged
    │   └── OfflineError (ConnectionError)   it is not on this machine and there is no network
    ├── UnsafeFile (ValueError)              a file would have to be executed (unpickled) to be read
    ├── StoreError (OSError)                 a bank, saved source or saved predictor is damaged or cannot be written
    ├── NotFitted (AttributeError)           used before ``fit``
    └── NumericsError (ArithmeticError)      the numbers do not allow it (not finite, singular, one class)

A message says what was given, what is allowed, and what to do next. Several problems come together, one per line.
Each class also inherits the builtin that a user would catch.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "HeadstartError",
    "HeadstartWarning",
    "MissingPackage",
    "NotFitted",
    "NumericsError",
    "OfflineError",
    "OptionError",
    "SourceError",
    "StoreError",
    "UnknownName",
    "UnreadableItem",
    "UnsafeFile",
    "WeightsError",
]


class HeadstartError(Exception):
    """Root of everything that headstart raises on purpose."""

    def __str__(self) -> str:  # KeyError and OSError would otherwise quote or number the message
        return str(self.args[0]) if self.args else type(self).__name__


class DataError(HeadstartError, ValueError):
    """The data given cannot be used as asked."""


class UnreadableItem(DataError):
    """One item cannot be decoded; ``reason`` is the short cause, ``item`` what was being read."""

    def __init__(self, item: object, reason: str) -> None:
        super().__init__(f"{item}: {reason}")
        self.item = item
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[object, str]]:
        return type(self), (self.item, self.reason)


class OptionError(HeadstartError, ValueError):
    """A parameter has a value that is not allowed."""


class UnknownName(OptionError, LookupError):
    """A name is not in the family's table."""


class MissingPackage(HeadstartError, ImportError):
    """An optional package is not installed."""


class SourceError(HeadstartError, ValueError):
    """A source cannot be loaded, or cannot do what was asked of it."""


class WeightsError(SourceError):
    """Weights do not fit the network, or are damaged."""


class OfflineError(SourceError, ConnectionError):
    """The thing asked for is not on this machine, and there is no network to fetch it."""


class UnsafeFile(HeadstartError, ValueError):
    """A file would have to be executed (unpickled) to be read. headstart never does that."""


class StoreError(HeadstartError, OSError):
    """A bank, a saved source or a saved predictor is damaged or cannot be written."""


class NotFitted(HeadstartError, AttributeError):
    """Something was used before it was fitted."""


class NumericsError(HeadstartError, ArithmeticError):
    """The numbers do not allow it: not finite, singular, or a single class."""


class HeadstartWarning(UserWarning):
    """Something worth knowing that does not stop the work (duplicates across a split, truncated texts, …)."""

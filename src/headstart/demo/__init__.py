"""A demonstration without data or network: does transfer help? Floor 7."""

from headstart.demo._records import Demo, DemoRow, Tried
from headstart.demo._run import demo

__all__ = ["Demo", "DemoRow", "Tried", "demo"]

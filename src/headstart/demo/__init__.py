"""A demonstration without data or network: does transfer help? Floor 7."""

from headstart.demo.demo import Demo, DemoRow, Tried, demo

__all__ = ["Demo", "DemoRow", "Tried", "demo"]

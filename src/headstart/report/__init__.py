"""report(): rankings and results as one self-contained HTML file, pictures included. Pure rendering. Floor 6."""

from headstart.report._page import report
from headstart.report._ranking import picture

__all__ = ["picture", "report"]

"""report(): rankings and results as one self-contained HTML file, pictures included. Pure rendering. Floor 6."""

from headstart.reporting.figures import picture
from headstart.reporting.render import report

__all__ = ["picture", "report"]

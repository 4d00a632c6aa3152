"""report(): rankings, results and proofs as one self-contained HTML file, figures included. Pure rendering. Floor 6."""

from headstart.reporting.figures import figure
from headstart.reporting.render import report

__all__ = ["figure", "report"]

"""CTC heads: frame-level features → text. Floor 3."""

from headstart.ctc._alphabet import Alphabet, alphabet_of
from headstart.ctc._decoding import beam_search, greedy
from headstart.ctc._recogniser import Recogniser
from headstart.ctc.base import CTC, CtcHead, ctc

__all__ = ["CTC", "Alphabet", "CtcHead", "Recogniser", "alphabet_of", "beam_search", "ctc", "greedy"]

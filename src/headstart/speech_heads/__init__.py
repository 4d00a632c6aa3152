"""CTC heads: frame-level features → text. Floor 3."""

from headstart.speech_heads.base import CTC, CtcHead, ctc
from headstart.speech_heads.decoding import Alphabet, alphabet_of, beam_search, greedy
from headstart.speech_heads.recogniser import Recogniser

__all__ = ["CTC", "Alphabet", "CtcHead", "Recogniser", "alphabet_of", "beam_search", "ctc", "greedy"]

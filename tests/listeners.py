"""A listener for tests that ask what is said while something runs."""

from __future__ import annotations


class Notes(list):
    """The notes, in order; bars are not kept."""

    def note(self, text):
        self.append(text)

    def start(self, label, total): ...

    def advance(self, label, steps): ...

    def finish(self, label): ...

"""A document as its sentences and their terms: what features, TextRank and selection share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix

from headstart._base.typing import Array, Float
from headstart.metrics.text import UNSPACED, words

# ---- Texts → sentences, each verbatim: by marks, abbreviations and line ends, without a model. ----


_CLOSERS = "\"'”’»)\\]}」』】》）＂"
_SPACED_CLOSERS = "”’»)]}」』】》）"
_OPENERS = "\"'“‘«([{「『【《（¿¡"
# A mark that ends sentences, closing quotes after it, and what comes next; between 。 and the next sentence no space is
# written, between . and the next one there is.
_FULL, _MARKS = "。！？｡", ".!?…؟۔।॥։።။"
_ENDS = re.compile(
    f"[{_FULL}]+[{_CLOSERS}]*|(?<![{_MARKS}])(?:……+[{_CLOSERS}]*|[{_MARKS}]++[{_CLOSERS}]*+(?=\\s))"
    f"|(?<=[{UNSPACED.pattern[1:-1]}])[!?]+[{_CLOSERS}]*"
)
_CONTEXT = 40  # letters that are looked at before and after a mark: without a bound a text of marks takes n² time
_BEFORE = re.compile(r"[^\s(\[\"'“‘]+$")
_NEXT = re.compile(r"\s*[-–—•*]?\s*")
_NEXT_WORD = re.compile(r"[^\W\d_]+")
_BULLET = re.compile(r"\s*(?:[-–—•*·]|\(?\d{1,2}[.)])\s")
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_MARKED = re.compile(f"[.!?…。！？｡:;؟۔।:][{_CLOSERS}]*\\s*$")

# Followed by a name or a number, never the end of a sentence.
_TITLES = frozenset(
    "mr mrs ms messrs mme mlle fr sr sra herr dr prof st ste hon rev sen rep gov pres supt insp gen lt col sgt capt "  # noqa: SIM905
    "cpl cmdr adm maj vs v cf viz al ca approx e.g i.e eg ie".split()
)
_NUMBERED = frozenset(
    "no nos nr fig figs vol vols p pp ch sec eq art op "  # noqa: SIM905
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
# May end a sentence: they do when a word follows that begins sentences more often than names.
_DOUBTFUL = frozenset(
    "inc ltd co corp plc llc bros jr etc u.s u.k u.n e.u d.c a.m p.m am pm ph.d m.d b.a m.a ave blvd rd sq mt ft est "  # noqa: SIM905
    "dept univ assn".split()
)
_STARTERS = frozenset(
    "the a an this that these those it its he she they we i you his her their our my there here what when where who "  # noqa: SIM905
    "why how which in on at by for from with without after before since while although though if as but and or yet so "
    "however meanwhile then now also another other both each every some many most several all no not once one two "
    "only".split()
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, as they stand in it (outer white space removed).

    A blank line ends a sentence; a single line end does too, unless the text is wrapped (its lines mostly break inside
    sentences) and then it is a space. Full stops end sentences when white space follows and then no lower-case letter,
    not after titles (``Mr.``), initials (``J. Smith``) and numbers to come (``No. 5``), and after ``Inc.``, ``U.S.``,
    ``p.m.`` only where the next word usually begins sentences. Chinese and Japanese marks need no space.

    >>> sentences("Mr. Smith paid $3.5bn. He left at 5 p.m. The deal “is done.” 他来了。真的吗？")
    ['Mr. Smith paid $3.5bn.', 'He left at 5 p.m.', 'The deal “is done.”', '他来了。', '真的吗？']

    Notes
    -----
    Cost: O(n). Joining lines of a wrapped text is the only change made to one.
    """
    sentences_: list[str] = []
    for block in _BLANK.split(text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2029", "\n\n")):
        sentences_ += [sentence for line in _lines(block) for sentence in _in_line(line)]
    return sentences_


def _lines(block: str) -> list[str]:
    """The lines of a paragraph; those of a wrapped one joined."""
    lines = [line for line in block.split("\n") if line.strip()]
    if len(lines) < 2:
        return lines
    pairs = list(pairwise(lines))
    broken = [not _MARKED.search(line) and after.lstrip()[:1].islower() for line, after in pairs]
    if sum(broken) * 4 < len(pairs):
        return lines
    joined = [lines[0]]
    for line in lines[1:]:
        if _BULLET.match(line):
            joined.append(line)
        else:
            joined[-1] = f"{joined[-1].rstrip()} {line.lstrip()}"
    return joined


def _in_line(line: str) -> list[str]:
    sentences_, begin = [], 0
    for end in _ENDS.finditer(line):
        if _is_end(line, begin, end):
            sentences_.append(line[begin : end.end()].strip())
            begin = end.end()
    sentences_.append(line[begin:].strip())
    return [sentence for sentence in sentences_ if sentence]


def _is_end(line: str, begin: int, end: re.Match[str]) -> bool:
    after = _NEXT.match(line, end.end())
    following = line[after.end() : after.end() + 1] if after else ""
    if not following or following in _SPACED_CLOSERS:
        return False  # the end of the line anyway, or « … . » as French is set
    if end[0][0] in _FULL or not line[end.end()].isspace():
        quoted = end[0][-1] in "」』" and following in "とっな"  # 「…。」と言った
        return following not in "，、；,;:：" and not quoted
    start = after.end() if after else end.end()
    word = _NEXT_WORD.search(line, start, start + _CONTEXT)
    next_word = word[0] if word else ""
    opened = following in _OPENERS
    if (next_word[:1] if opened else following).islower():
        return False
    if end[0].rstrip(_CLOSERS.replace("\\", "")) != ".":
        return True
    before = _BEFORE.search(line, max(begin, end.start() - _CONTEXT), end.start())
    return _stop_ends(before[0] if before else "", next_word, following)


def _stop_ends(before: str, next_word: str, following: str) -> bool:
    """Whether a full stop after the word ``before`` ends the sentence."""
    word = before.casefold()
    if word in _TITLES:
        return False
    if word in _NUMBERED:
        return not following.isdigit()
    starts = next_word.casefold() in _STARTERS
    if word in _DOUBTFUL or (len(word) > 1 and "." in word and not any(c.isdigit() for c in word)):
        return starts or following in _OPENERS
    if len(before) == 1 and before.isalpha() and before.isupper():
        return starts or before == "I"
    return True


_LONG = 4  # letters: most words without a meaning of their own are shorter
_DAMPING, _ROUNDS, _TOLERANCE = 0.85, 100, 1e-9


@dataclass(frozen=True, eq=False)
class Document:
    """Sentences, their words, and the document's terms.

    Terms stand for content without a list of stop words: words of four letters and more, and pairs of neighbouring
    characters where a script writes no spaces.

    >>> document = Document.from_text("Rates fell. The bank cut rates again.")
    >>> document.sentences, document.lengths.tolist()
    (('Rates fell.', 'The bank cut rates again.'), [2, 5])
    """

    sentences: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> Document:
        """Split a text."""
        return cls(tuple(sentences(text)))

    def __len__(self) -> int:
        return len(self.sentences)

    @cached_property
    def words(self) -> tuple[list[str], ...]:
        """The words of each sentence."""
        return tuple(words(sentence) for sentence in self.sentences)

    @cached_property
    def lengths(self) -> Array:
        """Number of words of each sentence (n,)."""
        return np.array([len(sentence) for sentence in self.words], dtype=np.int64)

    @cached_property
    def counts(self) -> csr_matrix:
        """How often each term occurs in each sentence (n, terms)."""
        index: dict[str, int] = {}
        rows: list[int] = []
        columns: list[int] = []
        for row, sentence in enumerate(self.words):
            terms = [index.setdefault(term, len(index)) for term in _terms(sentence)]
            rows += [row] * len(terms)
            columns += terms
        shape = (len(self), max(len(index), 1))
        return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)  # terms that repeat are added up

    @cached_property
    def tfidf(self) -> csr_matrix:
        """Term counts weighted by rareness among the sentences, each row of unit length or zero (n, terms)."""
        spread = np.bincount(self.counts.indices, minlength=self.counts.shape[1])
        weighted = self.counts.multiply(np.log((1 + len(self)) / np.maximum(spread, 1))[None, :]).tocsr()
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
        return csr_matrix(weighted.multiply(1 / np.where(norm > 0, norm, 1.0)[:, None]))

    @cached_property
    def textrank(self) -> Float:
        """TextRank (n,), 1 on average: PageRank of the sentences, linked by the cosine of their tf-idf rows.

        Power iteration with damping 0.85; the n × n matrix is never formed. Cost: O(words) per round.

        References
        ----------
        Mihalcea and Tarau (2004), TextRank: bringing order into texts. Erkan and Radev (2004), LexRank.
        """
        n, A = len(self), self.tfidf
        self_weight = np.asarray(A.multiply(A).sum(1)).ravel()  # a sentence does not vote for itself
        linked = A @ np.asarray(A.sum(0)).ravel() - self_weight
        share = np.where(linked > 1e-12, 1 / np.maximum(linked, 1e-12), 0.0)
        rank = np.ones(n)
        for _ in range(_ROUNDS):
            vote = rank * share
            idle = rank[share == 0].sum() / n  # a sentence without links votes for all
            new = (1 - _DAMPING) + _DAMPING * (A @ (A.T @ vote) - self_weight * vote + idle)
            if np.abs(new - rank).max() < _TOLERANCE:
                return np.asarray(new)
            rank = new
        return np.asarray(rank)


def _terms(tokens: Sequence[str]) -> Iterator[str]:
    previous = ""
    for token in tokens:
        single = bool(UNSPACED.match(token))
        if single and previous:
            yield previous + token
        elif not single and len(token) >= _LONG:
            yield token
        previous = token if single else ""

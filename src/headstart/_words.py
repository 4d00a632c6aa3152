"""Words of any script, for comparing texts: lower-case runs of letters and digits, single characters where none are
written apart. Floor 1.

>>> words("The U.S. cut 3 rates"), words("降息3次")
(['the', 'u', 's', 'cut', '3', 'rates'], ['降', '息', '3', '次'])
"""

from __future__ import annotations

import re

# Chinese and kana are written without spaces: one character is one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
UNSPACED = re.compile(f"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """The words of a text, in order. Cost: O(n)."""
    return _WORD.findall(text.lower())

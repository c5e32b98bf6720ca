"""How much is remembered of what clients of one make say alike: so many texts of each kind, none longer than usual.

Without the second limit a hostile client could fill the memory with its own.
"""

from collections.abc import Iterable

MAX_REMEMBERED = 256
MAX_REMEMBERED_CHARS = 8_000
"""A browser's video section has about 6,000."""


def is_usual(*lists: Iterable[str]) -> bool:
    """Are these texts, together, short enough to be remembered?"""
    return sum([sum(map(len, texts)) for texts in lists]) <= MAX_REMEMBERED_CHARS

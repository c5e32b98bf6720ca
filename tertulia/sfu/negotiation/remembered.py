"""How much is remembered of what clients of one make say alike: so many texts of each kind, none longer than usual.

Without the second limit a hostile client could fill the memory with its own.
"""

from collections.abc import Callable, Iterable
from functools import _lru_cache_wrapper
from typing import TypeVar

MAX_REMEMBERED = 256
MAX_REMEMBERED_CHARS = 8_000
"""A browser's video section has about 6,000."""

T = TypeVar("T")


def remembering(read: "_lru_cache_wrapper[T]", *lists: Iterable[str]) -> Callable[..., T]:
    """`read` for these texts: with its memory, or without when they are longer than usual together."""
    return read if sum([sum(map(len, texts)) for texts in lists]) <= MAX_REMEMBERED_CHARS else read.__wrapped__

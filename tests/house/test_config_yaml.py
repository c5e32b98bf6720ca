"""config.yaml documents every key with the default the code has; keys without effect say so, and only they."""

import re
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from tertulia.node.config import Config
from tertulia.node.config_decode import Decoder, hints_of, unwrap
from tertulia.node.config_tree import Branch, Problem, parse_tree
from tertulia.node.config_types import NoEffect
from tests.house.tree import ROOT, sources

TEXT = (ROOT / "config.yaml").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
NO_READERS = {"config.py", "config_media.py", "config_types.py", "config_check.py", "doctor.py"}

UNDER_WAY: set[str] = set()
"""Keys whose reader is being built; must be empty in a release."""


def keys(schema: Any = Config, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], tuple[Any, ...], bool]]:
    """Every key: path, marks, is it a section."""
    found = []
    for spec in fields(schema):
        kind, marks = unwrap(hints_of(schema)[spec.name])
        path = (*prefix, spec.name)
        found.append((path, marks, is_dataclass(kind)))
        if is_dataclass(kind):
            found += keys(kind, path)
    return found


@pytest.fixture(scope="module")
def tree() -> Branch:
    problems: list[Problem] = []
    tree = parse_tree(TEXT, "config.yaml", {}, problems)
    assert problems == []
    return tree


def line_of(tree: Branch, path: tuple[str, ...]) -> str:
    branch = tree
    for part in path[:-1]:
        below = branch.entries.get(part)
        assert isinstance(below, Branch), f"config.yaml has no section {'.'.join(path[:-1])}"
        branch = below
    assert path[-1] in branch.keys, f"config.yaml lacks {'.'.join(path)}"
    return LINES[branch.keys[path[-1]].line - 1]


def test_defaults_are_those_of_the_code(tree: Branch) -> None:
    decoder = Decoder()
    assert decoder.decode(Config, tree) == Config()
    assert decoder.problems == []
    assert decoder.notes == []


def test_every_key_is_there_with_a_word_about_it(tree: Branch) -> None:
    for path, _, _ in keys():
        comment = line_of(tree, path).partition("  # ")[2]
        assert len(comment) > 3, f"{'.'.join(path)} has no comment"


def test_keys_without_effect_say_so_and_why(tree: Branch) -> None:
    for path, marks, _ in keys():
        reason = next((mark.reason for mark in marks if isinstance(mark, NoEffect)), None)
        line = line_of(tree, path)
        assert ("no effect: " in line) == (reason is not None), line
        assert reason is None or f"no effect: {reason}" in line, f"{line} should say: {reason}"


def test_every_other_key_is_read_somewhere() -> None:
    """A key nobody reads is a lie told to operators: mark it NoEffect, or use it."""
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in sources("tertulia/node") if path.name not in NO_READERS
    )
    unread = [
        ".".join(path)
        for path, marks, section in keys()
        if not section
        and not any(isinstance(mark, NoEffect) for mark in marks)
        and re.search(rf"\.{path[-1]}\b", code) is None
    ]
    assert set(unread) == UNDER_WAY

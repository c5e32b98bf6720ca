"""Sizes: a file fits in a head, a function on a screen. Exceptions are named here with their reason."""

import ast

import pytest

from tests.house.tree import name, parsed, sources

FILE_LINES = 400
FUNCTION_LINES = 60
TEST_FILE_LINES = 600

LARGE_FILES = {
    "tertulia/egress/depacketize.py": "one depacketizer per codec over the same frame assembly",
    "tertulia/sfu/plane/intake.py": "one packet's way in, compiled as one unit",
    "tertulia/node/house.py": "the one place where every room meets every other",
    "tertulia/sfu/plane/interpreted.py": "the plumbing of the interpreted life, side by side with native.pyx",
    "tertulia/sfu/plane/rows.py": "the fields of the C structs, one line each",
}
LONG_FUNCTIONS = {
    "tertulia/sfu/plane/rows.py": "the fields of the C structs, one line each",
    "tertulia/sfu/participant.py": "what a node keeps of a member, one field each with its word",
    "tertulia/protocol/stun.py": "one message, attribute by attribute, in the order of the RFC",
}
LARGE_LIMIT = 700
"""Even for an exception."""


@pytest.mark.parametrize(("folder", "limit"), [("tertulia", FILE_LINES), ("tests", TEST_FILE_LINES)])
def test_files_are_small(folder: str, limit: int) -> None:
    found = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)}
    large = {path: lines for path, lines in found.items() if lines > (LARGE_LIMIT if path in LARGE_FILES else limit)}
    assert not large, f"split these, or name them here with a reason: {large}"


def test_functions_fit_on_a_screen() -> None:
    long = []
    for path in sources("tertulia"):
        if name(path) in LONG_FUNCTIONS:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{name(path)}:{node.lineno} {node.name} has {lines} lines")
    assert not long


def test_exceptions_are_still_needed() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources("tertulia")}
    assert not [path for path in LARGE_FILES if lines.get(path, 0) <= FILE_LINES]

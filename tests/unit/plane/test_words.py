"""The two lists of every number and every field, interpreted and compiled, are the same."""

import ast
import re
from collections import Counter
from pathlib import Path

from tertulia.sfu.plane import orders, rows, words
from tertulia.sfu.plane.api import Codec, Drop, Extension

COMPILED = Path(rows.__file__).parent / "compiled"


def test_words_agree() -> None:
    text = (COMPILED / "words.pxd").read_text()
    compiled = {name: int(value) for name, value in re.findall(r"^    (\w+) = (\d+)$", text, re.MULTILINE)}
    interpreted = {name: value for name, value in vars(words).items() if name.isupper()}
    assert compiled == interpreted


def test_rows_agree() -> None:
    blocks = re.split(r"^cdef struct (\w+):$", (COMPILED / "rows.pxd").read_text(), flags=re.MULTILINE)
    compiled = {}
    for name, body in zip(blocks[1::2], blocks[2::2], strict=True):
        compiled[name] = set(re.findall(r"^    \S+(?: \(\*|[* ]+)(\w+)[\[\])(\w, *]*", body, re.MULTILINE))
    interpreted = {
        name: set(row.__slots__)
        for name, row in vars(rows).items()
        if isinstance(row, type) and row.__module__ == rows.__name__
    }
    assert compiled == interpreted


def test_the_decisions_are_one_module_when_compiled() -> None:
    """What two of the joined sources defined under one name would be the later one's for both."""
    declared = set(re.findall(r"^cdef [^(]*?(\w+)(?:\(.*)?$", (COMPILED / "decisions.pxd").read_text(), re.MULTILINE))
    listed = re.findall(r"^DECISIONS \+?= \((.*)\)$", (COMPILED.parents[3] / "setup.py").read_text(), re.MULTILINE)
    names: Counter[str] = Counter()
    for module in re.findall(r"\w+", ",".join(listed)):
        for node in ast.parse((COMPILED.parent / f"{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef):
                names[node.name] += 1
            elif isinstance(node, ast.Assign):
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    assert [name for name, times in names.items() if times > 1] == []
    assert set(names) == declared


def test_the_border_has_the_same_numbers() -> None:
    prefixes = {"D_": Drop, "C_": Codec, "X_": Extension}
    for prefix, kind in prefixes.items():
        names = {name for name in vars(words) if name.startswith(prefix)} - {"X_KINDS", "X_NONE"}
        assert {getattr(words, name) for name in names} == {int(member) for member in kind}
    totals = sorted((getattr(words, name), name[2:].lower()) for name in vars(words) if name.startswith("T_"))
    assert [name for _, name in totals] == list(orders.TOTALS)

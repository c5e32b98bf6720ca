"""A configuration tree to values of the schema, every problem found on the way told at once.

Unknown keys get the nearest known one suggested, mistyped values are named with what was expected. A broken value
leaves the default in its place so that the rest can still be judged. Notes tell which keys were set without effect.
"""

import difflib
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tertulia.node.config_tree import Branch, Listing, Problem, Scalar, Tree, Where
from tertulia.node.config_types import (
    Duration,
    MessageShape,
    NoEffect,
    PortList,
    Secret,
    Within,
    parse_duration,
    parse_ports,
)

MAX_PROBLEMS = 50
"""Enough to mend; a file of another program would make hundreds."""
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
"""The YAML 1.1 words are taken where a truth value is expected, as Go's decoder does."""
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


class _Bad(Exception):
    """This value cannot be used; the text says what was expected."""


@dataclass(slots=True)
class Decoder:
    strict: bool = True
    """False: unknown keys are notes, not problems."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _root: type = object

    def decode(self, schema: type, tree: Branch) -> Any:
        self._root = schema
        return self._record(schema, tree, ())

    def _record(self, schema: type, tree: Branch, path: tuple[str, ...]) -> Any:
        hints = hints_of(schema)
        found: dict[str, Any] = {}
        for key, value in tree.entries.items():
            here = (*path, key)
            if key not in hints:
                self._unknown(schema, tree.keys[key], here)
                continue
            if isinstance(value, Scalar) and value.null:
                continue
            kind, marks = unwrap(hints[key])
            count = len(self.problems)
            try:
                decoded = self._value(kind, marks, value, here)
            except _Bad as bad:
                self.problems.append(Problem(value.where, f"{dotted(here)}: {bad}"))
                continue
            if len(self.problems) > count:
                continue
            found[key] = decoded
            for mark in marks:
                if isinstance(mark, NoEffect) and decoded != default_of(schema, key):
                    self.notes.append(f"{value.where}: {dotted(here)} has no effect: {mark.reason}")
        return schema(**found)

    def _value(self, kind: Any, marks: tuple[Any, ...], tree: Tree, path: tuple[str, ...]) -> Any:
        if message := next((mark for mark in marks if isinstance(mark, MessageShape)), None):
            return _message(message.name, tree)
        origin = get_origin(kind)
        if is_dataclass(kind):
            if not isinstance(tree, Branch):
                raise _Bad(f"expected keys below it, got {_shown(tree)}")
            return self._record(kind, tree, path)  # type: ignore[arg-type]
        if kind is PortList:
            return _ports(tree)
        if origin is tuple:
            return self._items(get_args(kind)[0], tree, path)
        if origin is dict:
            return self._mapping(get_args(kind)[1], tree, path)
        if origin in (Union, types.UnionType):
            inner, more = unwrap(next(arg for arg in get_args(kind) if arg is not type(None)))
            return self._value(inner, more, tree, path)
        if kind is Any:
            return plain(tree)
        if not isinstance(tree, Scalar):
            raise _Bad(f"expected {_expected(kind)}, got {_shown(tree)}")
        return _bounded(_scalar(kind, tree), marks)

    def _items(self, kind: Any, tree: Tree, path: tuple[str, ...]) -> tuple[Any, ...]:
        if isinstance(tree, Scalar) and tree.outside:
            items: list[Tree] = [
                Scalar(tree.where, part.strip(), part.strip(), outside=True)
                for part in tree.text.split(",")
                if part.strip()
            ]
        elif isinstance(tree, Listing):
            items = list(tree.items)
        else:
            raise _Bad(f"expected a list, got {_shown(tree)}; write it as [ ... ] or as lines beginning with `- `")
        inner, marks = unwrap(kind)
        return tuple(self._each(inner, marks, item, (*path, str(index))) for index, item in enumerate(items))

    def _mapping(self, kind: Any, tree: Tree, path: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(tree, Branch):
            raise _Bad(f"expected `name: value` lines below it, got {'a value' if kind is Secret else _shown(tree)}")
        inner, marks = unwrap(kind)
        return {key: self._each(inner, marks, value, (*path, key)) for key, value in tree.entries.items()}

    def _each(self, kind: Any, marks: tuple[Any, ...], tree: Tree, path: tuple[str, ...]) -> Any:
        try:
            return self._value(kind, marks, tree, path)
        except _Bad as bad:
            self.problems.append(Problem(tree.where, f"{dotted(path)}: {bad}"))
            return None

    def _unknown(self, schema: type, where: Where, path: tuple[str, ...]) -> None:
        hint = suggestion(self._root, schema, path)
        text = f"unknown key {dotted(path)}" + (f"; did you mean {hint}?" if hint else "")
        if self.strict:
            self.problems.append(Problem(where, text))
        else:
            self.notes.append(f"{where}: {text}")


# ------------------------------------------------------------------------------------------- the schema


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[int, mark]` -> (int, (mark,))."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return kind, tuple(marks)
    return hint, ()


@cache
def hints_of(schema: type) -> Mapping[str, Any]:
    return get_type_hints(schema, include_extras=True)


@cache
def _defaults(schema: type) -> Any:
    return schema()


def default_of(schema: type, key: str) -> Any:
    return getattr(_defaults(schema), key)


@cache
def paths(schema: type, prefix: tuple[str, ...] = ()) -> Mapping[tuple[str, ...], tuple[Any, tuple[Any, ...]]]:
    """Every key below a section that is not a section itself: path -> (kind, marks)."""
    found: dict[tuple[str, ...], tuple[Any, tuple[Any, ...]]] = {}
    for spec in fields(schema):
        kind, marks = unwrap(hints_of(schema)[spec.name])
        path = (*prefix, spec.name)
        if is_dataclass(kind):
            found.update(paths(kind, path))  # type: ignore[arg-type]
        else:
            found[path] = kind, marks
    return found


def suggestion(root: type, schema: type, path: tuple[str, ...]) -> str:
    """The key that was probably meant: a sibling spelled alike, else the same name elsewhere below the root."""
    near: list[str] = difflib.get_close_matches(path[-1], hints_of(schema), n=1, cutoff=0.7)
    if near:
        return near[0]
    everywhere = {".".join(known): known for known in paths(root)}
    same = [name for name, known in everywhere.items() if known[-1] == path[-1]]
    return same[0] if same else next(iter(difflib.get_close_matches(dotted(path), everywhere, n=1, cutoff=0.85)), "")


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(part if len(part) <= 80 else part[:77] + "..." for part in path)


# ------------------------------------------------------------------------------------------- values


def _scalar(kind: Any, tree: Scalar) -> Any:
    text, loose = tree.text, tree.outside or tree.text != tree.shown
    if kind is Secret:
        return Secret(text)
    if kind is str:
        return text
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text in choices:
            return str(text)
        near = difflib.get_close_matches(text.lower(), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _Bad(f"expected one of {', '.join(choices)}, got {_shown(tree)}{hint}")
    if kind is Duration:
        try:
            return parse_duration(text)
        except ValueError as error:
            raise _Bad(f"{error}, got {_shown(tree)}") from None
    if not tree.quoted or loose:
        if kind is bool and (text in _TRUE or text in _FALSE):
            return text in _TRUE
        if kind is int and _INT.fullmatch(text) and len(text) < 30:
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind is float and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    raise _Bad(f"expected {_expected(kind)}, got {_shown(tree)}")


def _bounded(value: Any, marks: tuple[Any, ...]) -> Any:
    for mark in marks:
        if isinstance(mark, Within) and not mark.low <= value <= mark.high:
            high = f" to {mark.high:g}" if mark.high < 1 << 32 else " or more"
            raise _Bad(f"expected {mark.low:g}{high}, got {value}")
    return value


def _ports(tree: Tree) -> PortList:
    if isinstance(tree, Scalar):
        items = tree.text.split(",") if tree.outside else [tree.text]
    elif isinstance(tree, Listing) and all(isinstance(item, Scalar) for item in tree.items):
        items = [item.text for item in tree.items if isinstance(item, Scalar)]
    else:
        raise _Bad("expected a port, a list of ports or a range such as 7882-7885")
    try:
        return parse_ports(items)
    except ValueError as error:
        raise _Bad(str(error)) from None


def _message(name: str, tree: Tree) -> Any:
    """A protobuf message in its JSON form; LiveKit's snake_case field names are taken as well."""
    from google.protobuf import json_format
    from livekit.protocol import room

    if not isinstance(tree, Branch):
        raise _Bad(f"expected the fields of a {name} below it, got {_shown(tree)}")
    try:
        return json_format.ParseDict(plain(tree), getattr(room, name)())
    except (json_format.ParseError, ValueError, TypeError) as error:
        first = str(error).strip().split("\n")[0].split(" Available Fields")[0]
        raise _Bad(f"not a {name}: {first[:160]}") from None


def plain(tree: Tree) -> Any:
    """The tree as Python values, scalars by YAML 1.2's own rules."""
    if isinstance(tree, Branch):
        return {key: plain(value) for key, value in tree.entries.items()}
    if isinstance(tree, Listing):
        return [plain(item) for item in tree.items]
    if tree.null:
        return None
    if not tree.quoted:
        if tree.text in ("true", "false"):
            return tree.text == "true"
        if _INT.fullmatch(tree.text):
            return int(tree.text, 0) if tree.text[:2] in ("0x", "0o") else int(tree.text)
        if _FLOAT.fullmatch(tree.text):
            return float(tree.text)
    return tree.text


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Secret: "text"}


def _expected(kind: Any) -> str:
    return _NAMES.get(kind, "a value")


def _shown(tree: Tree) -> str:
    if isinstance(tree, Branch):
        return "keys below it"
    if isinstance(tree, Listing):
        return "a list"
    text = tree.shown if len(tree.shown) <= 40 else tree.shown[:37] + "..."
    return f"the text {text!r}" if tree.quoted else text or "nothing"

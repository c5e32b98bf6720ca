"""Configuration text to a tree that remembers where each value stands, and settings from outside put over it.

YAML 1.2 (so `on`, `no` and `0777` mean what they say), `${VAR}` and `${VAR:-default}` expanded inside values (a value
never turns into structure), `$${` for a literal. Duplicate keys, unset variables and bombs are problems with a line;
all are collected. What keys mean is `config_decode`'s business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_TEXT_BYTES = 1 << 20
MAX_NODES = 20_000
"""Aliases count each time they are used: a page of YAML can otherwise stand for billions of values."""
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place to look: `config.yaml:12`, `LIVEKIT_REGION`, `--rtc.tcp_port`."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    where: Where
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(slots=True)
class Scalar:
    """One value as text. `outside`: from the environment or a flag, so lists are written with commas."""

    where: Where
    text: str
    shown: str
    """As written, before `${VAR}` was replaced: fit for an error message."""
    quoted: bool = False
    outside: bool = False

    @property
    def null(self) -> bool:
        return not self.quoted and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(slots=True)
class Listing:
    where: Where
    items: "list[Tree]" = field(default_factory=list)


@dataclass(slots=True)
class Branch:
    where: Where
    entries: "dict[str, Tree]" = field(default_factory=dict)
    keys: dict[str, Where] = field(default_factory=dict)


Tree = Scalar | Listing | Branch


class _TooLarge(Exception):
    pass


def parse_tree(text: str, source: str, variables: Mapping[str, str], problems: list[Problem]) -> Branch:
    """The file's tree; empty when it cannot be read at all (then a problem says why)."""
    top = Branch(Where(source, 1))
    if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
        problems.append(Problem(Where(source), f"larger than {MAX_TEXT_BYTES >> 20} MiB: not a configuration"))
        return top
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        problems.append(Problem(Where(source, line), _yaml_words(error, text, line)))
        return top
    except (YAMLError, ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0][:200]
        problems.append(Problem(Where(source), f"not readable as YAML: {what}"))
        return top
    if node is None:
        return top
    try:
        tree = _Grower(source, variables, problems).grow(node, 0)
    except _TooLarge as error:
        problems.append(Problem(Where(source), str(error)))
        return top
    if isinstance(tree, Scalar) and tree.null:
        return top
    if not isinstance(tree, Branch):
        problems.append(Problem(tree.where, "expected `key: value` lines"))
        return top
    return tree


def _yaml_words(error: MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    if 0 < line <= len(lines) and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]:
        return "a tab indents this line; YAML wants spaces"
    problem = (error.problem or "unreadable").split("\n")[0]
    if "mapping values are not allowed" in problem:
        problem += " (is a key indented wrongly, or a value with `: ` not in quotes?)"
    return f"not readable as YAML: {problem[:200]}"


class _Grower:
    def __init__(self, source: str, variables: Mapping[str, str], problems: list[Problem]) -> None:
        self._source = source
        self._variables = variables
        self._problems = problems
        self._count = 0

    def grow(self, node: Node, depth: int) -> Tree:
        self._count += 1
        if self._count > MAX_NODES:
            raise _TooLarge(f"stands for more than {MAX_NODES} values; aliases (`*name`) multiply")
        if depth > MAX_DEPTH:
            raise _TooLarge(f"nested more than {MAX_DEPTH} levels deep")
        where = Where(self._source, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self._branch(node, where, depth)
        if isinstance(node, SequenceNode):
            return Listing(where, [self.grow(item, depth + 1) for item in node.value])
        assert isinstance(node, ScalarNode)
        text = expand(node.value, self._variables, where, self._problems)
        return Scalar(where, text, node.value, quoted=node.style in ("'", '"', "|", ">"))

    def _branch(self, node: MappingNode, where: Where, depth: int) -> Branch:
        branch = Branch(where)
        for key_node, value in node.value:
            key_where = Where(self._source, key_node.start_mark.line + 1)
            if not isinstance(key_node, ScalarNode):
                self._problems.append(Problem(key_where, "a key must be one word"))
                continue
            key = expand(key_node.value, self._variables, key_where, self._problems)
            grown = self.grow(value, depth + 1)
            if key == "<<" and isinstance(grown, Branch):  # YAML's merge key: what is said here wins
                for name, entry in grown.entries.items():
                    branch.entries.setdefault(name, entry)
                    branch.keys.setdefault(name, grown.keys[name])
                continue
            if key in branch.entries:
                first = branch.keys[key].line
                self._problems.append(Problem(key_where, f"{key} is given twice (first on line {first})"))
                continue
            branch.entries[key] = grown
            branch.keys[key] = key_where
        return branch


_VARIABLE = re.compile(r"\$(\$)?\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, variables: Mapping[str, str], where: Where, problems: list[Problem]) -> str:
    """`${VAR}` from `variables`; an unset one without `:-default` is a problem."""
    if "${" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        escaped, inside = match[1], match[2]
        if escaped:
            return match[0][1:]
        name, given, default = inside.partition(":-")
        if _NAME.fullmatch(name) is None:
            problems.append(Problem(where, f"${{{inside}}} is not a variable's name; write $${{ for a literal ${{"))
            return ""
        found = variables.get(name, "")
        if found or given:
            return found or default
        if name not in variables:
            problems.append(Problem(where, f"the environment variable {name} is not set"))
        return found

    return _VARIABLE.sub(value, text)


def overlay(top: Branch, path: tuple[str, ...], tree: Tree) -> None:
    """Put a setting from the environment or a flag over what the file says."""
    branch = top
    for name in path[:-1]:
        below = branch.entries.get(name)
        if not isinstance(below, Branch):
            below = Branch(tree.where)
            branch.entries[name] = below
            branch.keys.setdefault(name, tree.where)
        branch = below
    branch.entries[path[-1]] = tree
    branch.keys[path[-1]] = tree.where

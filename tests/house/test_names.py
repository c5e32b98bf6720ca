"""Names: none of ours hides the standard library's, none is a word this house does not use."""

import ast
import re
import subprocess
import sys

import pytest

from tests.house.tree import ROOT, name, parsed, sources

BANNED = re.compile(r"^(?:get|do)_|Manager|Helper|Utils?(?:$|[A-Z_])|^utils?$|^helpers?$")
OVERRIDES = {("tertulia/node/main.py", "get_command")}
"""Names that a library asks for."""


@pytest.mark.parametrize(
    "command",
    [["-c", "{}"], ["-m", "timeit", "-n1", "-r1", "{}"]],
    ids=["python -c", "python -m"],
)
def test_the_standard_signal_module_is_the_one_imported(command: list[str]) -> None:
    script = "import signal, asyncio; signal.getsignal; asyncio.run(asyncio.sleep(0)); import tertulia.signal"
    words = [sys.executable, *(word.format(script) for word in command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_starts_from_inside_the_package_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tertulia", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tertulia" in done.stdout
    by_path = subprocess.run(
        [sys.executable, "tertulia/__main__.py"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert "python -m tertulia" in by_path.stderr
    assert "Traceback" not in by_path.stderr


def test_nothing_at_the_top_can_hide_a_standard_module() -> None:
    tops = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert not (tops - {"setup"}) & set(sys.stdlib_module_names)


def test_no_banned_words_in_names() -> None:
    found = []
    for path in sources("tertulia"):
        names = [path.stem]
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(node.name)
        found += [
            f"{name(path)}: {word}" for word in names if BANNED.search(word) and (name(path), word) not in OVERRIDES
        ]
    assert not found


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name(path)
        for path in sources("tertulia")
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parsed(path))
    ]
    assert not silent


def test_pages_load_nothing_from_elsewhere() -> None:
    pages = [*(ROOT / "web").glob("*.html"), *(ROOT / "web/src").iterdir(), ROOT / "tertulia/node/pages/app.py"]
    assert len(pages) > 5
    for page in pages:
        addresses = re.findall(r"(?:https?:)?//[a-z0-9-]+(?:\.[a-z0-9-]+)+", page.read_text(encoding="utf-8"))
        assert not addresses, f"{name(page)} names {addresses}"


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "web/package-lock.json").read_text(encoding="utf-8")

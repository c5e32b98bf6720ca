"""ARCHITECTURE.md shows the tree that is on disk, and everything our documents point at exists."""

import re

import pytest

from tests.house.tree import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
BASES = ("", "tertulia", "tertulia/node", "tertulia/egress/outputs")
"""Where a short path in a document may begin."""
NOT_PACKAGES = {"dist", "__pycache__"}


def drawn() -> dict[str, str]:
    """Folders of the first drawing: path -> what it says of it."""
    drawing = TEXT.split("```")[1]
    found: dict[str, str] = {}
    stack: list[str] = []
    for line in drawing.splitlines():
        match = re.fullmatch(r"((?:[│ ]   )*)(?:[├└]── )?([\w./]+)/(?:\s+(\S.*))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + ("── " in line)
        stack[depth:] = [match[2]]
        found["/".join(stack)] = match[3] or ""
    return found


def test_every_folder_drawn_is_on_disk() -> None:
    folders = drawn()
    assert len(folders) > 15
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_every_package_on_disk_is_drawn() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("tertulia", "benchmarks")
        for path in (ROOT / top).rglob("*.*")
        if path.suffix in (".py", ".pyx", ".pxd") and path.stat().st_size and not NOT_PACKAGES & set(path.parts)
    }
    assert packages - set(drawn()) - {"tertulia"} == set()


def test_every_test_folder_in_use_is_told() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/[!_]*") if not path.name.startswith(".")}
    assert [folder for folder in folders - NOT_PACKAGES if f"`tests/{folder}`" not in TEXT] == []


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "docs/glossary.md"])
def test_what_documents_point_at_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / document).parent.joinpath(link).exists()]
    for path in re.findall(r"`([\w/]+\.(?:py|yaml|toml|md))`", text):
        if not any((ROOT / base / path).exists() for base in BASES):
            missing.append(path)
    assert not missing


def test_every_make_target_in_our_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        named = set(re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text(encoding="utf-8")))
        assert named <= targets, document


def test_decisions_are_short() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))
    assert len(decisions) >= 3
    for decision in decisions:
        text = decision.read_text(encoding="utf-8")
        assert re.match(r"\d{4}-", decision.name)
        assert text.startswith(f"# {int(decision.name[:4])}. ")
        assert len(text.splitlines()) <= 30, f"{decision.name} is longer than a decision needs"

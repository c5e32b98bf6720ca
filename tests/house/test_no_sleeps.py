"""Quick tests do not sleep: they drive time themselves. Exceptions are named with their reason."""

import ast
import re

from tests.house.tree import name, parsed, sources

ALLOWED = {
    "tests/unit/signal/house.py": "a backend that never answers",
    "tests/unit/egress/test_service.py": "polls a worker thread",
    "tests/unit/egress_outputs/test_files.py": "polls a thread that writes files",
    "tests/unit/egress_outputs/test_hls.py": "polls a thread that writes files",
    "tests/unit/egress_outputs/test_websocket.py": "polls a real WebSocket",
}


def test_no_sleeps() -> None:
    found = []
    for path in sources("tests/unit", "tests/property", "tests/sim"):
        if name(path) in ALLOWED or _has_virtual_time(path.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep", "sleep"):
                seconds = node.args[0] if node.args else None
                if not (isinstance(seconds, ast.Constant) and seconds.value == 0):
                    found.append(f"{name(path)}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def _has_virtual_time(text: str) -> bool:
    """Sleeping on an event loop whose clock jumps costs nothing."""
    return re.search(r"^from \S*\bvirtual import ", text, re.MULTILINE) is not None

"""The pages: what is served in which mode, to whom tokens go, and what headers keep them harmless."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tertulia.node.config import Config, Pages
from tertulia.node.config_read import DEV_KEYS
from tertulia.node.pages import pages_app
from tertulia.protocol.token import parse_token

DEV = Config(development=True, keys=DEV_KEYS)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<title>the demo</title>")
    (tmp_path / "assets" / "demo.js").write_text("let x")
    (tmp_path / "secret.txt").write_text("canary")
    return tmp_path


async def get(app: Any, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], str]:
    parts = urlsplit(url)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "server": ("localhost", 7880),
        "root_path": "",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, body


async def test_development_serves_the_bundle(dist: Path) -> None:
    app = pages_app(DEV, dist=dist)
    status, headers, body = await get(app, "/")
    assert (status, body) == (200, "<title>the demo</title>")
    assert headers["content-type"].startswith("text/html")
    status, headers, body = await get(app, "/assets/demo.js")
    assert (status, body) == (200, "let x")
    assert "javascript" in headers["content-type"]


@pytest.mark.parametrize("path", ["/assets/../secret.txt", "/assets/%2e%2e/secret.txt", "/secret.txt", "/nope"])
async def test_nothing_else_is_reachable(dist: Path, path: str) -> None:
    status, _, body = await get(pages_app(DEV, dist=dist), path)
    assert status == 404
    assert "canary" not in body


async def test_without_the_bundle_the_page_says_how_to_build_it(tmp_path: Path) -> None:
    app = pages_app(DEV, dist=tmp_path / "none")
    status, _, body = await get(app, "/")
    assert status == 200
    assert "make web" in body
    assert (await get(app, "/assets/demo.js"))[0] == 404


async def test_every_answer_is_strict(dist: Path) -> None:
    app = pages_app(DEV, dist=dist)
    for url in ("/", "/assets/demo.js", "/nope", "/dev/token?room=a&identity=b"):
        _, headers, _ = await get(app, url)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


async def test_development_tokens_let_in() -> None:
    status, headers, body = await get(pages_app(DEV), "/dev/token?room=my%20room&identity=ada-1&name=Ada")
    assert status == 200
    assert headers["cache-control"] == "no-store"
    token = body.split('"token":"')[1].split('"')[0]
    claims = parse_token(token, DEV.keys, int(time.time()))
    assert (claims.identity, claims.name) == ("ada-1", "Ada")
    assert claims.video is not None
    assert (claims.video.room, claims.video.room_join, claims.video.room_admin) == ("my room", True, False)


@pytest.mark.parametrize(
    ("query", "told"),
    [("", "room is missing"), ("room=a", "identity is missing"), ("room=a&identity=" + "x" * 300, "at most 256"),
     ("room=a&identity=%00", "control characters"), ("room=%E2%80%AEa&identity=b", "control characters")],
)  # fmt: skip
async def test_bad_requests_for_tokens_are_told_why(query: str, told: str) -> None:
    status, _, body = await get(pages_app(DEV), f"/dev/token?{query}")
    assert status == 400
    assert told in body


async def test_other_origins_get_no_token() -> None:
    for site in ("cross-site", "same-site"):
        status, headers, body = await get(
            pages_app(DEV), "/dev/token?room=a&identity=b", {"sec-fetch-site": site, "origin": "http://evil.example"}
        )
        assert status == 403
        assert "eyJ" not in body
        assert "access-control-allow-origin" not in headers


async def test_production_has_no_pages_and_no_tokens(dist: Path) -> None:
    config = Config(keys=DEV_KEYS)
    for url in ("/", "/check", "/assets/demo.js", "/dev/token?room=a&identity=b"):
        assert (await get(pages_app(config, dist=dist), url))[0] == 404
    shown = pages_app(Config(keys=DEV_KEYS, pages=Pages(demo=True)), dist=dist)
    assert (await get(shown, "/"))[0] == 200
    assert (await get(shown, "/dev/token?room=a&identity=b"))[0] == 404

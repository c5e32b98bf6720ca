"""The demo page, used as a person would: open the link twice, join, see and hear each other."""

import shutil
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.interop.live import ROOT, LiveServer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

DIST = ROOT / "tertulia/node/pages/dist"
SHOTS = ROOT / "artifacts"


@pytest.fixture(scope="module")
def bundle() -> None:
    """The built page; built here when nobody did."""
    if (DIST / "index.html").exists():
        return
    npm = shutil.which("npm")
    assert npm, "npm is missing: `make test` installs it"
    for command in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        subprocess.run([npm, *command], cwd=ROOT / "web", check=True, timeout=600)


async def enter(browser: Browser, url: str, name: str) -> Page:
    """A person with a browser of their own: fill the form, press Join."""
    context = await browser.new_context(permissions=["camera", "microphone"], viewport={"width": 960, "height": 600})
    page = await context.new_page()
    page.troubles = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.troubles.append(str(error)))  # type: ignore[attr-defined]
    await page.goto(url)
    await page.locator("#username").fill(name)
    await page.locator(".lk-join-button").click()
    return page


SHOWN = """() => [...document.querySelectorAll('.lk-participant-tile:not([data-lk-local-participant="true"]) video')]
    .map((video) => video.getVideoPlaybackQuality().totalVideoFrames)"""
"""Frames shown of each remote picture."""


async def test_two_people_meet_on_the_page(
    make_server: Callable[..., Coroutine[Any, Any, LiveServer]], browser: Browser, bundle: None
) -> None:
    server = await make_server("development: true\n")
    ada = await enter(browser, f"{server.http}/?room=tea", "Ada")
    bob = await enter(browser, f"{server.http}/?room=tea", "Bob")
    for page, other in ((ada, "Bob"), (bob, "Ada")):
        await expect(page.locator(".lk-participant-name", has_text=other).first).to_be_visible(timeout=20_000)
        await page.wait_for_function(f"() => ({SHOWN})().some((frames) => frames > 10)", timeout=30_000)
    # they talk in the chat too
    await ada.get_by_role("button", name="Chat").click()
    await ada.get_by_placeholder("Enter a message").fill("hello Bob")
    await ada.keyboard.press("Enter")
    await bob.get_by_role("button", name="Chat").click()
    await expect(bob.get_by_text("hello Bob")).to_be_visible(timeout=10_000)
    SHOTS.mkdir(exist_ok=True)
    await ada.screenshot(path=SHOTS / "page-ada.png")
    await bob.screenshot(path=SHOTS / "page-bob.png")
    # Bob leaves, Ada sees it
    await bob.locator(".lk-disconnect-button").click()
    await expect(ada.locator(".lk-participant-name", has_text="Bob")).to_have_count(0, timeout=10_000)
    assert not ada.troubles + bob.troubles  # type: ignore[attr-defined]


async def test_the_page_is_off_in_production(server: LiveServer) -> None:
    assert (await server.get("/")).strip() == "OK"
    assert "token" not in await server.get("/dev/token?room=tea&identity=eve")

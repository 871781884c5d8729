"""Pages in Chromium: files, and those of a studio."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium")
IN_A_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright drives the browser"),
    pytest.mark.slow,
]
"""The marks of a module whose tests open pages."""
NASTY = "<img src=x onerror=alert(1)>"
"""A name that would run where names were taken for HTML."""
PLACED = """window.placed = (one) => { const { x, y, width } = one.getBoundingClientRect();
  return one.isConnected ? [x, y + scrollY, width].map(Math.round).join() : 'gone'; };"""
NOTED = (
    PLACED + "window.noted = [...document.querySelectorAll('main :is(a, button, input, select, textarea)')];"
    "window.places = noted.map(placed); null"
)
"""Takes down where everything stands that can be clicked."""
MOVED = """noted.map((one, at) => [one.outerHTML.slice(0, 90), places[at], placed(one)])
  .filter(([, before, now]) => before !== now)"""
"""What of it stands elsewhere now."""
WIDE = """[...document.querySelectorAll('.scroll, .seg')].filter((one) => one.scrollWidth > one.clientWidth)
  .map((one) => one.textContent.trim().slice(0, 80))"""
"""Tables and choices that would have to be scrolled sideways."""
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (one) => { for (; one; one = one.parentElement) { const c = getComputedStyle(one).backgroundColor;
    const p = parse(c); if (c.startsWith('rgb') && (p.length < 4 || p[3] === 1)) return p; } return [255, 255, 255]; };
  const bad = [];
  for (const one of document.querySelectorAll('main *, nav *, form *')) {
    if (one.disabled || one.closest(':disabled') || !one.getClientRects().length) continue;
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own && !one.placeholder) continue;
    const [a, b] = [light(parse(getComputedStyle(one, own ? null : '::placeholder').color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${(one.placeholder || one.textContent.trim()).slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
"""Texts whose contrast with their ground is less than WCAG's AA asks for (4.5 to 1)."""


def shown_by_a_browser(page: Path) -> str:
    """The page's markup after its script has run."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [browser, *flags, "--virtual-time-budget=3000", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser until the block's end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Intercepted:
    """Requests to `path`, each of which is given to `answer`, or waits, until the test lets them through.

    The handler stays to the test's end. One that was taken away while it answers would lose its request to the browser,
    and its answer would fail: "Route is already handled".
    """

    def __init__(self, page: Any, path: Any, answer: Callable[[Any], None] | None = None):
        self.waiting: list[Any] = []
        self._page = page
        self._answer = self.waiting.append if answer is None else answer
        self._through = False
        page.route(path, self._handle)

    def _handle(self, route: Any) -> None:
        if self._through:
            route.fallback()
        else:
            self._answer(route)

    def arrived(self, count: int, seconds: float = 60.0) -> list[Any]:
        """The waiting requests, once there are `count`.

        Playwright hands requests over only while one of its own calls runs, so a loop that sleeps would never see them.
        """
        end = time.monotonic() + seconds
        while len(self.waiting) < count:
            assert time.monotonic() < end, f"{len(self.waiting)} of {count} requests have come after {seconds:g} s"
            self._page.wait_for_timeout(10)
        return self.waiting

    def let_through(self) -> None:
        """Later requests reach whoever else answers them. Those that wait are the test's own to continue."""
        self._through = True

    def release(self) -> None:
        """What waits goes on too."""
        self.let_through()
        while self.waiting:
            self.waiting.pop(0).continue_()


class Watched:
    """A page whose requests and errors are kept."""

    def __init__(self, page: Any, address: str):
        self.page, self.address = page, address
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: self.errors.append("a script of a name has run"))

    def _asked(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.address:
            self.elsewhere.append(request.url)

    def go(self, at: str) -> None:
        self.page.goto(f"{self.address}/#/{at}")

    def sees(self, text: str, seconds: float = 30.0) -> None:
        from playwright.sync_api import TimeoutError as Waited

        try:
            self.page.get_by_text(text).first.wait_for(timeout=1000 * seconds)
        except Waited:
            shown = self.page.locator("body").inner_text()[:2000]
            pytest.fail(f"{text!r} is not to be seen after {seconds:g} s at {self.page.url}: {shown}; {self.errors}")


@contextmanager
def held(page: Any, pattern: str) -> Iterator[Intercepted]:
    """The requests of a page that are not let through before the block's end."""
    requests = Intercepted(page, pattern)
    yield requests
    requests.release()


def first_fails(page: Any, pattern: str) -> None:
    """The connection breaks at the next request of a page, and at no later one."""
    page.route(pattern, lambda route: route.abort(), times=1)


def without_breaks(errors: list[str]) -> list[str]:
    """Errors of a page less those by which a browser tells of connections that were broken."""
    return [error for error in errors if "ERR_FAILED" not in error]

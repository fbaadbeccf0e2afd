"""A real browser on real services: each started as a user would, on the embedded student."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

ROOT = Path(__file__).resolve().parents[2]
# The last three keep the browser itself from asking its maker for updates.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 60_000  # a busy machine is no failure


@dataclass
class Service:
    """A service in a process of its own."""

    url: str
    process: "subprocess.Popen[str]"


@contextmanager
def served(**settings: object) -> Iterator[Service]:
    """A service that is ready, with these `LIGHTMBERT_*` settings."""
    named = {f"LIGHTMBERT_{name.upper()}": str(value) for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | named,
    ) as process:
        try:
            yield Service(_address(process), process)
        finally:
            process.kill()


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            _wait_until_ready(match[0])
            return match[0]
    raise AssertionError("the service ended before it listened")


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if httpx.get(f"{url}/readyz", timeout=60).status_code == 200:
            return
        time.sleep(0.02)  # the process has no other way to tell us
    raise AssertionError("not ready within a minute")


@dataclass
class Seen:
    """What a page did that it should not."""

    complaints: list[str] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)

    def watch(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.addresses.add("/".join(request.url.split("/")[:3]))


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    prepare: Callable[[Page], None] = lambda page: None,
    **options: object,
) -> Iterator[Page]:
    """The page at `url`, which complains of nothing and asks no other host.

    What the browser itself writes of a refused request is not the page's complaint. `options`
    are those of a browser's context; `prepare` comes before the page is loaded.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    page, seen = context.new_page(), Seen()
    seen.watch(page)
    prepare(page)
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    refused = "Failed to load resource"
    assert [text for text in seen.complaints if not text.startswith(refused)] == []
    assert seen.addresses == {"/".join(url.split("/")[:3])}


def settled(page: Page) -> None:
    """Wait until the page shows what the service has told it of itself."""
    page.locator("#task option, .operation").first.wait_for(state="attached")

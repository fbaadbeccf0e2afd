"""A real browser, on pages that complain of nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

# The last three keep the browser itself from asking its maker for updates.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 60_000  # a busy machine is no failure


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

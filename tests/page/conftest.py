"""One service and one browser for each module of tests."""

import shutil
from collections.abc import Iterator

import pytest
from browsing import FLAGS, PATIENCE_MS, opened, settled
from playwright.sync_api import Browser, Page, expect, sync_playwright
from served import Service, served

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A service as it comes."""
    with served() as running:
        yield running


# Not for the whole session: the browser's event loop runs beneath its tests, and asynchronous
# tests of other modules want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """The playground, with the model known."""
    with opened(browser, f"{service.url}/") as page:
        settled(page)
        yield page

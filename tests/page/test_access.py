"""For everybody: by keyboard, by ear, in the dark, on a phone, from right to left."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import opened, settled
from playwright.sync_api import Browser, Page, expect
from served import Service

ADDRESSES = {"playground": "/", "reference": "/docs"}
RUNS = (("Similarity", "Compare"), ("Your own labels", "Classify"), ("Labels", "Classify"))
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def run(page: Page, tab: str, name: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.get_by_role("tabpanel")
    panel.get_by_role("button", name=name, exact=True).click()
    expect(panel.get_by_role("status")).to_contain_text("there and back")


def violations(page: Page) -> list[str]:
    found = Axe().run(page, options=WCAG).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize(("address", "theme"), [("/", "light"), ("/", "dark"), ("/docs", "dark")])
def test_axe_finds_nothing(browser: Browser, service: Service, address: str, theme: str) -> None:
    # axe is put into the page by the test, which the page's own policy would not let happen.
    options = {"color_scheme": theme, "bypass_csp": True}
    with opened(browser, f"{service.url}{address}", **options) as page:
        settled(page)
        assert violations(page) == []
        if address != "/":
            return
        for tab, name in RUNS:
            run(page, tab, name)
            assert violations(page) == []
        page.get_by_label("Least probability").fill("2")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tabpanel").get_by_role("alert")).to_contain_text("422")
        assert violations(page) == []


def test_everything_is_done_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the texts")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("One text per line")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("The doctor prescribed her an antibiotic.\nالطبيب")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".classified > li")).to_have_count(2)
    tab_to(page, "Labels")
    page.keyboard.press("ArrowLeft")  # from the first to the last
    expect(page.get_by_role("tab", name="Similarity")).to_be_focused()
    expect(page.get_by_role("tab", name="Similarity")).to_have_attribute("aria-selected", "true")
    tab_to(page, "Compare")
    page.keyboard.press("Enter")
    expect(page.get_by_role("table")).to_be_visible()
    tab_to(page, "Python")
    page.keyboard.press("Space")
    expect(page.locator("#snippet")).to_contain_text("import httpx")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of that name has the focus, and see that the focus shows."""
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and focused.inner_text() == name:
            assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
            return
    raise AssertionError(f"{name!r} is not among the next 40 stops")


def test_a_choice_keeps_the_focus(page: Page) -> None:
    page.locator("#form-classify").get_by_role("button").press("Enter")
    python = page.get_by_role("button", name="Python")
    python.press("Enter")
    expect(python).to_be_focused()
    expect(python).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_a_phone_scrolls_one_way_only(browser: Browser, service: Service, address: str) -> None:
    size = {"width": 320, "height": 640}
    with opened(browser, f"{service.url}{address}", viewport=size) as page:
        settled(page)
        for tab, name in RUNS if address == "/" else ():
            run(page, tab, name)
            assert_nothing_sticks_out(page)
        assert_nothing_sticks_out(page)


def assert_nothing_sticks_out(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    outside = """[...document.querySelectorAll("main *, header *, .strip *")].filter(node =>
        node.getBoundingClientRect().right > innerWidth && !node.closest(".heatmap, .unseen"))"""
    assert page.evaluate(f"{outside}.map(node => node.outerHTML)") == []


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, service: Service) -> None:
    with opened(browser, f"{service.url}/", color_scheme="dark") as page:
        assert ground(page) < 60
        page.emulate_media(color_scheme="light")
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        assert ground(page) > 200
        page.get_by_label("Theme").select_option("dark")
        assert ground(page) < 60
        page.reload()
        expect(page.get_by_label("Theme")).to_have_value("dark")
        assert ground(page) < 60
        page.goto(f"{service.url}/docs")
        assert ground(page) < 60


def ground(page: Page) -> int:
    """How bright the page is, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return max(int(part) for part in re.findall(r"\d+", colour)[:3])


def test_a_text_runs_in_its_own_direction(page: Page) -> None:
    page.get_by_label("One text per line").fill("وصف لها الطبيب دواء.\nA text.")
    page.keyboard.press("Control+Enter")
    texts = page.locator(".classified .text")
    expect(texts).to_have_count(2)
    directions = [text.evaluate("node => getComputedStyle(node).direction") for text in texts.all()]
    assert directions == ["rtl", "ltr"]


def test_a_long_text_leaves_room_for_the_next(page: Page) -> None:
    page.get_by_label("One text per line").fill("W" * 3_000)
    page.get_by_label("Use only the beginning").check()
    run(page, "Labels", "Classify")
    text = page.locator(".classified .text")
    assert text.evaluate("text => text.scrollHeight > 2 * text.clientHeight")
    page.keyboard.press("Tab")
    assert text.evaluate("text => text === document.activeElement"), "no key scrolls it"


def test_nothing_moves_by_itself(page: Page) -> None:
    moving = """[...document.querySelectorAll("*")].filter(node => {
        const style = getComputedStyle(node);
        return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
    })"""
    assert page.evaluate(f"{moving}.length") == 0


def test_the_reference_shows_every_operation(browser: Browser, service: Service) -> None:
    with opened(browser, f"{service.url}/docs") as page:
        settled(page)
        document = page.request.get(f"{service.url}/openapi.json").json()
        operations = [(m.upper(), path) for path, ms in document["paths"].items() for m in ms]
        sections = page.locator(".operation")
        expect(sections).to_have_count(len(operations))
        for method, path in operations:
            expect(page.locator(".operation h2", has_text=f"{method} {path}").first).to_be_visible()
        embed = sections.filter(has=page.get_by_role("heading", name="POST /embed", exact=True))
        for words in (
            "dimensions",
            "whole number",
            'default "float32"',
            "text_too_long",
            "curl -s",
        ):
            expect(embed).to_contain_text(words)
        page.get_by_role("link", name="/v1/embeddings").click()
        expect(page.get_by_role("heading", name="POST /v1/embeddings")).to_be_in_viewport()

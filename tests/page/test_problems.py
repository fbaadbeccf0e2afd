"""Whatever goes wrong is said in words, with a way on, and nothing spins for ever."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from browsing import opened, settled
from playwright.sync_api import Browser, Locator, Page, expect
from served import Service, served

SLOW = {"runners": 1, "intra_op_threads": 1}
"""Of a service that is to be busy for a while, however many processors there are."""


def fill(page: Page, text: str) -> None:
    page.get_by_label("One text per line").fill(text)


def classify(page: Page) -> None:
    page.get_by_role("tabpanel").get_by_role("button", name="Classify", exact=True).click()


def problem(page: Page) -> Locator:
    return page.get_by_role("tabpanel").get_by_role("alert")


def assert_solved(page: Page) -> None:
    expect(page.locator(".classified")).to_be_visible()
    expect(problem(page)).to_be_empty()


def test_a_text_too_long_is_named_shown_and_can_be_cut(page: Page) -> None:
    fill(page, "A short one.\n\n" + "long " * 400)
    classify(page)
    expect(problem(page)).to_contain_text("The server cannot use this input")
    expect(problem(page)).to_contain_text("texts[1] has")
    expect(problem(page)).to_contain_text("Status 422, code text_too_long, param texts[1]")
    expect(page.get_by_role("tabpanel").get_by_role("status")).to_be_empty()
    problem(page).get_by_role("button", name="Show text 2").click()
    field = page.get_by_label("One text per line")
    expect(field).to_be_focused()
    chosen = field.evaluate("f => f.value.slice(f.selectionStart, f.selectionEnd)")
    assert chosen == "long " * 400
    page.get_by_label("Use only the beginning").check()
    classify(page)
    assert_solved(page)
    expect(page.locator(".classified > li").nth(1)).to_contain_text("Only its beginning was read")


def test_a_field_at_fault_is_led_to(page: Page) -> None:
    threshold = page.get_by_label("Least probability")
    threshold.fill("2")
    classify(page)
    expect(problem(page)).to_contain_text("param threshold")
    problem(page).get_by_role("button", name="Show the field").click()
    expect(threshold).to_be_focused()


def test_what_cannot_be_asked_is_not_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    fill(page, " \n ")
    classify(page)
    expect(problem(page)).to_contain_text("There is no text")
    fill(page, "\n".join(f"text {number}" for number in range(41)))
    page.get_by_role("tab", name="Similarity").click()
    page.get_by_role("button", name="Compare").click()
    expect(problem(page)).to_contain_text("The table holds 40 texts; there are 41")
    assert "POST" not in sent


def test_results_of_before_do_not_stand_beside_a_problem(page: Page) -> None:
    classify(page)
    assert_solved(page)
    page.get_by_label("Least probability").fill("2")
    classify(page)
    expect(problem(page)).to_contain_text("Status 422")
    expect(page.locator(".classified")).to_have_count(0)


def test_words_of_a_proxy_in_place_of_json_are_said_and_asked_for_again(
    browser: Browser, service: Service
) -> None:
    def sign_in(page: Page) -> None:
        page.route(re.compile("/(info|classify)$"), lambda route: route.fulfill(body="<p>Sign in"))

    with opened(browser, f"{service.url}/", prepare=sign_in) as page:
        expect(page.locator("#facts")).to_have_text("The answer is no JSON. Asking again.")
        page.get_by_role("tab", name="Your own labels").click()
        classify(page)
        expect(problem(page)).to_contain_text("The answer is no JSON.")
        page.unroute_all()
        settled(page)
        problem(page).get_by_role("button", name="Try again").click()
        assert_solved(page)


def test_a_server_that_asks_for_a_key_gets_it_from_this_tab_alone(browser: Browser) -> None:
    with served(api_key="s3cret") as service, opened(browser, f"{service.url}/") as page:
        key = page.get_by_label("API key")
        expect(key).to_be_hidden()
        settled(page)
        classify(page)
        expect(problem(page)).to_contain_text("A key is needed")
        expect(key).to_be_focused()
        key.fill("wrong")
        key.press("Enter")
        expect(problem(page)).to_contain_text("A key is needed")
        key.fill("s3cret")
        key.press("Enter")
        assert_solved(page)
        expect(page.locator("#snippet")).to_contain_text("Bearer $LIGHTMBERT_API_KEY")
        expect(page.locator("#snippet")).not_to_contain_text("s3cret")
        assert "s3cret" not in page.url
        assert "s3cret" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        page.reload()
        settled(page)
        classify(page)
        assert_solved(page)
        page.get_by_role("button", name="Forget it").click()
        assert "s3cret" not in page.evaluate("JSON.stringify(sessionStorage)")
        classify(page)
        expect(problem(page)).to_contain_text("A key is needed")


def test_a_busy_server_says_when_to_come_back(browser: Browser) -> None:
    """Nothing may wait here: what comes behind the large request, as bulk as it, is refused."""
    with (
        served(bulk_texts=2, bulk_max_wait_s=1e-6, **SLOW) as service,
        opened(browser, f"{service.url}/", prepare=lambda page: page.clock.install()) as page,
    ):
        settled(page)
        page.clock.pause_at(time.time() + 3_600)  # else the time to come back is soon there
        with much_to_do(service) as large:
            classify(page)
            expect(problem(page)).to_contain_text("The server is busy")
            expect(problem(page)).to_contain_text("come back in")
            again = problem(page).get_by_role("button", name="Try again")
            expect(again).to_be_disabled()
            assert large.result().status_code == 200
        page.clock.run_for(60_000)
        expect(again).to_be_enabled()
        again.click()
        assert_solved(page)


def test_a_server_that_leaves_and_is_gone_is_said_to(browser: Browser) -> None:
    with (
        served(drain_timeout_s=60, **SLOW) as service,
        opened(browser, f"{service.url}/") as page,
    ):
        settled(page)
        with much_to_do(service) as large:
            service.process.terminate()
            while httpx.get(f"{service.url}/readyz", timeout=60).status_code == 200:
                assert not large.done()
                time.sleep(0.01)  # and leave the processor to what is waited for
            classify(page)
            expect(problem(page)).to_contain_text("The server is not ready")
            expect(problem(page)).to_contain_text("shutting down")
            expect(problem(page)).to_contain_text("Status 503, code not_ready")
        service.process.wait(timeout=60)
        again = problem(page).get_by_role("button", name="Try again")
        again.click()
        expect(problem(page)).to_contain_text("The server cannot be reached")
        expect(again).to_be_enabled()
        expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        expect(page.locator("#strip-note")).to_contain_text("No metrics")


@contextmanager
def much_to_do(service: Service) -> Iterator["Future[httpx.Response]"]:
    """A large request that has begun to run, and is waited for at the end."""
    words = "words that are there to keep it busy for longer than a slow browser takes to ask " * 2
    texts = [f"{number} {words}" for number in range(2_000)]
    with ThreadPoolExecutor() as callers:
        asked = {"texts": texts}
        large = callers.submit(httpx.post, f"{service.url}/embed", json=asked, timeout=120)
        while value(service.url, "lightmbert_queue_texts") == 0:
            assert not large.done()
            time.sleep(0.01)
        yield large


def value(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

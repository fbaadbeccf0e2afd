"""What the page is for: labels, labels of one's own, similarity, latency, and the call itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from browsing import opened, settled
from fitted import described
from playwright.sync_api import Browser, Page, Request, expect
from served import ROOT, Service, served

from app.head_folder import publish_head
from app.runtime.artifact import load_manifest

CLIENTS = ROOT / ".clients" / "bin" / "python"
SENTENCES = [
    "The doctor prescribed her an antibiotic.",
    "L'équipe a gagné le match.",
    "医生给她开了抗生素。",
]


def fill(page: Page, *texts: str) -> None:
    page.get_by_label("One text per line").fill("\n".join(texts))


def run(page: Page, name: str) -> None:
    panel = page.get_by_role("tabpanel")
    panel.get_by_role("button", name=name, exact=True).click()
    expect(panel.get_by_role("status")).to_contain_text("there and back")


def best_labels(page: Page) -> list[str]:
    return page.get_by_role("tabpanel").locator(".label.best").all_inner_texts()


def test_the_page_says_what_is_served(page: Page, service: Service) -> None:
    info = httpx.get(f"{service.url}/info").json()
    facts = page.locator("#facts")
    expect(facts).to_contain_text(info["model"]["name"])
    expect(facts).to_contain_text(f"{len(info['model']['languages'])} languages")
    tasks = page.get_by_label("Task").locator("option").all_inner_texts()
    assert sorted(tasks) == sorted(info["model"]["tasks"])
    limit = f"{info['limits']['max_texts_per_request']:,}"
    expect(page.locator("#texts-count")).to_contain_text(f"at most {limit}")


def test_labels_and_numbers_are_those_of_the_api(page: Page, service: Service) -> None:
    fill(page, *SENTENCES)
    page.get_by_label("Task").select_option("topic")
    page.get_by_label("Labels to show").fill("2")
    run(page, "Classify")
    asked = {"texts": SENTENCES, "task": "topic", "top_k": 2}
    results = httpx.post(f"{service.url}/classify", json=asked).json()["results"]
    rows = page.locator(".classified > li")
    assert rows.locator(".text").all_inner_texts() == SENTENCES
    assert best_labels(page) == [result["label"] for result in results]
    for index, result in enumerate(results):
        numbers = rows.nth(index).locator(".number").all_inner_texts()
        assert numbers == [f"{100 * score['score']:.1f} %" for score in result["scores"]]


def test_a_fitted_head_is_offered_as_a_task(browser: Browser, tmp_path: Path) -> None:
    manifest = load_manifest(ROOT / "models" / "lightmbert-mini")
    on = {"model": manifest.name, "revision": manifest.revision, "dimension": 384}
    head = described("tickets", ("delivery", "payment"), on=on)
    nothing = np.zeros((2, 384), dtype=np.float32)
    publish_head(tmp_path, head, weight=nothing, bias=np.array([1, 0], np.float32))
    with served(heads_dir=tmp_path) as own, opened(browser, f"{own.url}/") as page:
        settled(page)
        page.get_by_label("Task").select_option("tickets")
        expect(page.locator("#task-hint")).to_contain_text("delivery, payment")
        fill(page, SENTENCES[0])
        run(page, "Classify")
        assert best_labels(page) == ["delivery"]


def test_a_label_described_twice_is_not_sent(page: Page) -> None:
    page.get_by_role("tab", name="Your own labels").click()
    page.get_by_label("Labels, one per line").fill("sport: games\nsport: matches\nmoney")
    page.get_by_role("tabpanel").get_by_role("button", name="Classify").click()
    expect(page.get_by_role("tabpanel").get_by_role("alert")).to_contain_text("described twice")


def test_a_bar_is_as_long_as_its_number_says(page: Page) -> None:
    fill(page, SENTENCES[0])
    run(page, "Classify")
    for track, number in zip(
        page.locator(".track").all(), page.locator(".scores .number").all(), strict=True
    ):
        share = track.evaluate("track => track.firstChild.offsetWidth / track.offsetWidth")
        assert share == pytest.approx(float(number.inner_text().rstrip(" %")) / 100, abs=0.02)


def test_where_no_label_reaches_the_threshold_it_is_said(page: Page) -> None:
    fill(page, SENTENCES[0])
    page.get_by_label("Least probability").fill("1")
    run(page, "Classify")
    expect(page.locator(".scores")).to_contain_text("No label reaches")


def test_examples_are_in_twelve_languages(page: Page) -> None:
    field = page.get_by_label("One text per line")
    for name in ("A story each", "One meaning", "Two meanings"):
        page.get_by_role("button", name=name).click()
        assert len(set(field.input_value().splitlines())) == 12
    fill(page)
    languages = page.locator("#example-languages").get_by_role("button").all()
    for language in languages:
        language.click()
    assert len(set(field.input_value().splitlines())) == len(languages) == 12
    expect(page.locator("#texts-count")).to_contain_text("12 texts")


def test_labels_of_ones_own_are_found_in_any_language(page: Page, service: Service) -> None:
    fill(page, *SENTENCES)
    page.get_by_role("tab", name="Your own labels").click()
    page.get_by_label("Labels, one per line").fill("sport\nmedicine: doctors and medicine")
    page.get_by_label("Template").fill("It is about {}.")
    run(page, "Classify")
    asked = {
        "texts": SENTENCES,
        "labels": {"sport": "sport", "medicine": "doctors and medicine"},
        "template": "It is about {}.",
    }
    results = httpx.post(f"{service.url}/classify", json=asked).json()["results"]
    assert best_labels(page) == [result["label"] for result in results]
    assert set(best_labels(page)) == {"sport", "medicine"}


def test_the_heatmap_is_a_table_of_the_cosines(page: Page, service: Service) -> None:
    fill(page, *SENTENCES)
    page.get_by_role("tab", name="Similarity").click()
    run(page, "Compare")
    vectors = httpx.post(f"{service.url}/embed", json={"texts": SENTENCES}).json()["embeddings"]
    cosines = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in vectors] for a in vectors]
    table = page.get_by_role("table")
    assert len(table.get_by_role("rowheader").all()) == 3
    for row, expected in zip(table.locator("tbody tr").all(), cosines, strict=True):
        cells = row.locator("td")
        shown = [float(cell.replace("−", "-")) for cell in cells.all_inner_texts()]
        assert shown == pytest.approx(expected, abs=0.006)
        tints = cells.evaluate_all("all => all.map(cell => cell.style.getPropertyValue('--share'))")
        assert [float(tint) for tint in tints] == pytest.approx(
            [min(1, max(0, cosine)) for cosine in expected], abs=0.006
        )
    closest = table.locator("tbody tr").first.locator("strong")
    expect(closest).to_have_text(f"{cosines[0][2]:.2f}")  # the same, said in Chinese


@pytest.fixture
def called(page: Page) -> Page:
    fill(page, *SENTENCES)
    run(page, "Classify")
    return page


def snippet(page: Page, kind: str) -> str:
    page.get_by_role("button", name=kind, exact=True).click()
    return page.locator("#snippet").inner_text()


def test_the_curl_command_gives_what_the_page_shows(called: Page) -> None:
    command = snippet(called, "curl")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["results"]
    assert [result["label"] for result in results] == best_labels(called)
    assert len(results[0]["scores"]) == len(called.locator(".scores").first.locator("li").all())


def test_the_python_program_gives_what_the_page_shows(called: Page) -> None:
    printed = python(snippet(called, "Python"))
    assert [line.rpartition(" ")[0] for line in printed.splitlines()] == best_labels(called)


def test_the_python_program_for_embeddings_runs(page: Page) -> None:
    fill(page, *SENTENCES)
    page.get_by_role("tab", name="Similarity").click()
    run(page, "Compare")
    first = page.locator("tbody tr").first.locator("td").nth(1).inner_text().replace("−", "-")
    assert first.rstrip("0") in python(snippet(page, "Python"))


def test_the_program_for_openais_client_runs(page: Page) -> None:
    if not CLIENTS.exists():
        pytest.skip("make conformance has not installed the client")
    fill(page, *SENTENCES)
    page.get_by_role("tab", name="Similarity").click()
    run(page, "Compare")
    printed = python(snippet(page, "OpenAI client"), CLIENTS)
    assert printed == "3 vectors of 384 dimensions\n"


def test_what_openais_client_cannot_ask_is_not_shown_for_it(page: Page) -> None:
    page.get_by_role("tab", name="Similarity").click()
    run(page, "Compare")
    assert "embeddings.create" in snippet(page, "OpenAI client")
    page.get_by_label("Use only the beginning").check()
    run(page, "Compare")
    assert '"truncate": true' in page.locator("#snippet").inner_text()
    expect(page.get_by_role("button", name="OpenAI client")).to_have_count(0)


def python(program: str, interpreter: Path = Path(sys.executable)) -> str:
    command = [interpreter, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_snippet_is_copied(browser: Browser, service: Service) -> None:
    with opened(
        browser, f"{service.url}/", permissions=["clipboard-read", "clipboard-write"]
    ) as page:
        run(page, "Classify")
        page.get_by_role("button", name="Copy").click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator("#snippet").inner_text()


def test_the_strip_follows_what_the_server_does(page: Page, service: Service) -> None:
    gauges = page.locator(".gauge")
    expect(gauges).to_have_count(8)
    for _ in range(3):
        httpx.post(f"{service.url}/embed", json={"texts": SENTENCES})
    for name in ("total", "tokenize", "queue", "run", "serialize"):
        gauge = gauges.filter(has=page.locator(f"dt:text-is('{name}')"))
        expect(gauge.locator(".words")).to_contain_text("ms")
        expect(gauge.locator("path").first).to_have_attribute("d", drawn())
    expect(gauges.filter(has_text="texts per batch")).to_contain_text("mean")
    expect(gauges.filter(has_text="requests")).to_contain_text("per s")


def drawn() -> "re.Pattern[str]":
    return re.compile(r"^M[\d.]+ [\d.]+H[\d.]+")


def test_the_strip_rests_while_paused_or_out_of_sight(browser: Browser, service: Service) -> None:
    asked: list[Request] = []
    with opened(browser, f"{service.url}/", prepare=lambda page: page.clock.install()) as page:
        page.on("request", lambda request: asked.append(request) if is_poll(request) else None)
        pause = page.get_by_role("button", name="Pause")
        for rest, wake in (
            (pause.click, pause.click),
            (lambda: hide(page, "true"), lambda: hide(page, "false")),
        ):
            with page.expect_request(is_poll):
                page.clock.run_for(3_000)
            rest()
            asked.clear()
            page.clock.run_for(20_000)
            assert asked == []
            with page.expect_request(is_poll):
                wake()


def is_poll(request: Request) -> bool:
    return request.url.endswith("/metrics")


def hide(page: Page, hidden: str) -> None:
    """What the browser does when another tab comes to the front."""
    page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}})"
    )
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

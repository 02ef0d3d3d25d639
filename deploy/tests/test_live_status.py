"""The status page, in a real Chromium, over a stack with something of everything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from live import Prometheus
from playwright.sync_api import Browser, Page, expect, sync_playwright
from processes import MODEL, PATIENCE, binary, environment, get, run, wait_for

MILLISECONDS = PATIENCE * 1000
# For the picture in producer/README.md.
PICTURE = os.environ.get("STATUS_PICTURE")


@pytest.fixture(scope="module")
def url(loaded: Prometheus, stack: dict[str, Any]) -> str:
    """Where the page is, once there is something of everything on it."""
    assert loaded.process.child.poll() is None
    address: str = stack["status_url"]
    return address


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Whoever is root has no sandbox; what is opened is ours.
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page; whatever the browser has to complain of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    complaints: list[str] = []
    opened.on("console", lambda said: complaints.append(said.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(url)
    yield opened
    context.close()
    # It asks for an icon by itself, of which there is none.
    assert [text for text in complaints if "404" not in text] == []


def row(page: Page, part: str, *texts: str) -> Any:
    """The row of a part that has all of these."""
    found = page.locator(f"#{part} tbody tr")
    for text in texts:
        found = found.filter(has_text=text)
    return found.first


def test_it_shows_what_there_is(page: Page) -> None:
    expect(page).to_have_title("akidb-embed: status")
    expect(row(page, "models", MODEL, "fp32 (default)", "live on 1 worker")).to_contain_text("%")
    expect(row(page, "models", MODEL, "broken", "failed on 1 worker")).to_be_visible()
    expect(row(page, "traffic", "fp32", "rpc")).to_be_visible()
    expect(row(page, "queues", "fp32", "bulk")).to_be_visible()
    expect(row(page, "streams", MODEL, "results")).to_contain_text("2.0 GiB")
    expect(row(page, "rollouts", "fp32", "canary", "paused")).to_be_visible()
    expect(row(page, "dead", "unknown_prompt")).to_contain_text("no-such-prompt")
    expect(row(page, "workers", "serving")).to_contain_text(MODEL)
    attention = page.locator("#attention")
    expect(attention).to_contain_text("version v0.0.9 failed")
    expect(attention).to_contain_text("does not run on cuda")
    expect(attention).to_contain_text(f"the rollout of {MODEL} waits for a person")


def test_it_keeps_itself_up_to_date(page: Page, stack: dict[str, Any], tmp_path: Path) -> None:
    page.evaluate("window.sameDocument = true")
    env = environment(HOME=str(tmp_path), NATS_URL=stack["nats_url"])
    run([binary("embed"), "publish", "--prompt=another-one", "--id=seen-live", "a text"], env)
    expect(row(page, "dead", "seen-live")).to_contain_text("another-one")
    assert page.evaluate("window.sameDocument")


def test_it_can_be_used_with_the_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the figures")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    pause = page.get_by_role("button", name="Pause updates")
    page.keyboard.press("Tab")
    expect(pause).to_be_focused()
    page.keyboard.press("Space")
    expect(pause).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Space")
    expect(pause).to_have_attribute("aria-pressed", "false")
    skip.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    # From there on, every table that may have to be scrolled.
    page.keyboard.press("Tab")
    models = page.get_by_role("region", name="Models")
    expect(models).to_be_focused()
    # What is new takes nobody's focus away.
    before = page.locator("#taken").inner_text()
    expect(page.locator("#taken")).not_to_have_text(before)
    expect(models).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_it_is_complete_without_a_script(browser: Browser, url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(url)
    expect(row(plain, "models", MODEL, "fp32 (default)")).to_be_visible()
    expect(plain.get_by_role("button", name="Pause updates")).to_be_hidden()
    plain.get_by_role("link", name="Refresh").click()
    expect(row(plain, "dead", "unknown_prompt")).to_be_visible()
    context.close()


def test_it_fits_a_narrow_window_and_can_be_shown(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
    path = Path(PICTURE) if PICTURE else tmp_path / "status.png"
    page.screenshot(path=path, full_page=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_programs_and_terminals_get_the_same(
    url: str, stack: dict[str, Any], tmp_path: Path
) -> None:
    def whole() -> dict[str, Any] | None:
        """What a look found that nobody answered too late for."""
        found: dict[str, Any] = json.loads(get(f"{url}status.json", timeout=30) or b"{}")
        variants = {line["variant"] for line in found.get("variants", [])}
        is_whole = variants == {"fp32", "canary", "broken"} and found["unknown"] == []
        return found if is_whole else None

    served = wait_for("all to be seen at once", whole)
    env = environment(HOME=str(tmp_path), NATS_URL=stack["nats_url"])
    printed = json.loads(run([binary("embed"), "status", "--json"], env))
    assert printed.keys() == served.keys()
    text = run([binary("embed"), "status"], env)
    assert "! " in text
    assert "unknown_prompt" in text

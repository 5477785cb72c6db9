"""The console in a real browser: it works, it is in the visitor's language, and hostile text stays text."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from backend import wsgi
from backend.tables import ComparisonRow, ModelRow, RoundRow, RunRow, SampleRow, WorkspaceRow
from tests.backend.console_seed import Stage
from tests.backend.web import PASSWORD, USERNAME, SeededService, seeded, settings

pytestmark = pytest.mark.e2e

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "<svg/onload=\"document.title='owned'\"><style>*{display:none}</style>"
    "<meta http-equiv=refresh content='0;url=http://198.51.100.7/'>"
    "<img src=http://198.51.100.7/pixel.png>{{7*7}}${7*7}</textarea>]]>&amp;\"'"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[Any]:
    """Opens browsers of a language and width; closes them at the end."""
    opened: list[webdriver.Chrome] = []

    def open_one(language: str = "en", width: int = 1440) -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ.get("CHROMIUM", shutil.which("chromium") or "")
        for flag in FLAGS:
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={tmp_path / f'profile-{len(opened)}'}")
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = shutil.which("chromedriver")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        opened.append(browser)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return browser

    yield open_one
    for browser in opened:
        browser.quit()


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serves services on ports of their own; ends them at the end."""
    running: list[tuple[wsgi.WebServer, threading.Thread]] = []

    def start(service: SeededService) -> str:
        server = wsgi.server(service, threads=4)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.effective_port}"

    yield start
    for server, thread in running:
        server.close()
        thread.join(10)


def log_in(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    browser.find_element(By.NAME, "username").send_keys(USERNAME)
    browser.find_element(By.NAME, "password").send_keys(PASSWORD)
    browser.find_element(By.TAG_NAME, "button").click()
    wait(browser, "return document.documentElement.dataset.ready === 'yes'")


def wait(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(script))


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the browser's console holds, but for the 401 that shows the login form."""
    return [entry["message"] for entry in browser.get_log("browser") if "401" not in entry["message"]]


def requested(browser: webdriver.Chrome) -> set[str]:
    """Every address that the browser asked for."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize(("language", "word"), [("zh-CN", "奖励模型"), ("en-GB", "Reward model")])
def test_the_page_shows_the_journey_in_the_visitors_language(
    tmp_path: Path, open_browser: Any, serve: Any, width: int, language: str, word: str
) -> None:
    browser = open_browser(language, width)
    log_in(browser, serve(seeded(tmp_path / "data")))
    assert len(browser.find_elements(By.CSS_SELECTOR, ".step")) == 5
    assert word in text(browser, "#steps")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot svg")) == 4
    assert "85 %" in text(browser, "#reward .target text")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert complaints(browser) == []


@pytest.mark.parametrize("stage", ["new", "collecting", "rewarding", "tuning", "reviewing", "decided", None])
def test_no_stage_leaves_an_error_in_the_browser(
    tmp_path: Path, open_browser: Any, serve: Any, stage: Stage | None
) -> None:
    browser = open_browser()
    log_in(browser, serve(seeded(tmp_path / "data", stage)))
    assert text(browser, "#hero h1")
    assert "undefined" not in text(browser, "body")
    assert "NaN" not in text(browser, "body")
    assert complaints(browser) == []


def test_hostile_text_stays_text_and_asks_nobody_outside(
    tmp_path: Path, open_browser: Any, serve: Any
) -> None:
    service = seeded(tmp_path / "data")
    with service.store.session() as session:
        session.get_one(WorkspaceRow, "team").title = HOSTILE
        for sample in session.query(SampleRow):
            sample.prompt = sample.response = HOSTILE
        for comparison in session.query(ComparisonRow):
            comparison.before = comparison.after = HOSTILE
        session.get_one(RunRow, "compare-3a4b5c6d").error = HOSTILE
        session.get_one(RunRow, "ppo-9c0d1e2f").result = {"stop_reason": HOSTILE, "updates": 3}
        session.get_one(ModelRow, "policy-team-1").parent = HOSTILE
        session.get_one(WorkspaceRow, "team").problems = [
            {"id": "x", "count": 1, "zh": HOSTILE, "en": HOSTILE}
        ]
    address = serve(service)
    browser = open_browser()
    log_in(browser, address)
    assert HOSTILE in text(browser, "#samples .answer-text")
    assert HOSTILE in text(browser, "#problems")
    assert (
        browser.find_elements(By.CSS_SELECTOR, "main script, main img, main style, main meta, main iframe")
        == []
    )
    assert browser.title.startswith("<img")  # the title is the workspace's, as text
    urls = requested(browser)
    assert f"{address}/static/console.js" in urls
    assert all(url.startswith((address, "data:", "chrome:")) for url in urls)
    assert complaints(browser) == []


def test_a_button_asks_first_and_then_acts_once(tmp_path: Path, open_browser: Any, serve: Any) -> None:
    service = seeded(tmp_path / "data", "collecting")
    browser = open_browser()
    log_in(browser, serve(service))
    button = browser.find_element(By.XPATH, "//button[text()='Start training now']")
    button.click()
    browser.find_element(By.CSS_SELECTOR, "#confirm button[value=no]").click()
    assert service.calls == []
    button.click()
    browser.find_element(By.CSS_SELECTOR, "#confirm button[value=yes]").click()
    WebDriverWait(browser, 10).until(lambda _: service.calls)
    assert service.calls == [("start_training", 12)]


def test_advice_says_what_applying_it_does_and_is_applied_once_confirmed(
    tmp_path: Path, open_browser: Any, serve: Any
) -> None:
    service = seeded(tmp_path / "data", "decided")
    browser = open_browser()
    log_in(browser, serve(service))
    assert "The new model serves from now on." in text(browser, "#advice")
    browser.find_element(By.XPATH, "//*[@id='advice']//button[text()='Apply']").click()
    assert text(browser, "#confirm p") == "The new model serves from now on."
    browser.find_element(By.CSS_SELECTOR, "#confirm button[value=yes]").click()
    WebDriverWait(browser, 20).until(lambda _: service.calls)
    assert service.calls == [("apply", "team", "promote")]


def test_the_page_follows_what_happens_without_reloading(
    tmp_path: Path, open_browser: Any, serve: Any
) -> None:
    service = seeded(tmp_path / "data", "rewarding")
    browser = open_browser()
    log_in(browser, serve(service))
    assert "34 / 60" in text(browser, "#steps")
    with service.store.session() as session:
        session.get_one(RunRow, "reward-5e6f7a8b").progress_done = 59
    wait(browser, "return document.getElementById('steps').textContent.includes('59 / 60')")


def test_a_verdict_stays_while_the_next_round_trains(tmp_path: Path, open_browser: Any, serve: Any) -> None:
    service = seeded(tmp_path / "data")
    with service.store.session() as session:
        session.add(RoundRow(id="team-r2", workspace="team", number=2, state="rewarding"))
    browser = open_browser()
    log_in(browser, serve(service))
    assert "The new model is better" in text(browser, "#verdict")
    assert "Round 1" in text(browser, "#verdict")


def test_the_page_rounds_as_the_server_does(tmp_path: Path, open_browser: Any, serve: Any) -> None:
    browser = open_browser()
    log_in(browser, serve(seeded(tmp_path / "data")))
    shares = [0.525, 0.535, 0.005, 0.575, 0.8899, 1.0]
    shown = browser.execute_async_script(
        "const [shares, done] = arguments; import('/static/texts.js')"
        ".then((texts) => done(shares.map((share) => texts.percent(share))), (error) => done(`${error}`));",
        shares,
    )
    assert shown == [f"{share:.0%}".replace("%", " %") for share in shares]


@pytest.mark.parametrize(
    ("language", "said"),
    [("zh-CN", "磁盘已满：请清理磁盘空间，然后重试（详情：no `space`）"), ("en-GB", "no `space`")],
)
def test_a_failed_run_says_why_in_the_visitors_language(
    tmp_path: Path, open_browser: Any, serve: Any, language: str, said: str
) -> None:
    service = seeded(tmp_path / "data", "tuning")
    with service.store.session() as session:
        run = session.query(RunRow).filter_by(kind="ppo").one()
        run.state, run.failure, run.error = "failed", "disk", "no `space`"
        session.query(RoundRow).one().state = "failed"
    browser = open_browser(language)
    log_in(browser, serve(service))
    assert text(browser, "#ppo .failure") == said
    assert text(browser, "#hero h1").endswith(said)


@pytest.mark.parametrize(("outcome", "button"), [("passed", "Start PPO"), ("failed", "Run PPO anyway")])
def test_ppo_by_hand_is_called_what_it_is(
    tmp_path: Path, open_browser: Any, serve: Any, outcome: str, button: str
) -> None:
    service = seeded(tmp_path / "data", "tuning")
    with service.store.session() as session:
        session.query(RunRow).filter_by(kind="ppo").delete()
        session.query(RunRow).filter_by(kind="reward").one().result = {"outcome": outcome, "accuracy": 0.9}
        session.get_one(RoundRow, "team-r1").state = "gated"
    browser = open_browser()
    log_in(browser, serve(service))
    assert button in text(browser, "#hero .actions")


def test_the_verdicts_advice_stands_under_its_step_with_one_thing_to_press(
    tmp_path: Path, open_browser: Any, serve: Any
) -> None:
    browser = open_browser()
    log_in(browser, serve(seeded(tmp_path / "data")))
    assert text(browser, "#hero .moment") == "Round 1 · Review · done"
    primary = browser.find_elements(By.CSS_SELECTOR, "#hero .actions .primary")
    assert [button.text for button in primary] == ["Promote policy-team-1"]


def test_the_projects_are_linked_in_the_order_of_the_journey(
    tmp_path: Path, open_browser: Any, serve: Any
) -> None:
    browser = open_browser()
    log_in(browser, serve(seeded(tmp_path / "data")))
    links = [link.text.rstrip("↗") for link in browser.find_elements(By.CSS_SELECTOR, "#links a")]
    assert links == ["Prompts", "Ranking", "Review"]


def test_language_and_theme_are_kept(tmp_path: Path, open_browser: Any, serve: Any) -> None:
    browser = open_browser("en")
    address = serve(seeded(tmp_path / "data", "collecting"))
    log_in(browser, address)
    browser.find_element(By.ID, "language").click()
    browser.find_element(By.ID, "theme").click()
    theme = browser.execute_script("return document.documentElement.dataset.theme")
    browser.get(address)
    wait(browser, "return document.documentElement.dataset.ready === 'yes'")
    assert "奖励模型" in text(browser, "#steps")
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme


def test_a_lost_backend_is_said_and_recovered_from(tmp_path: Path, open_browser: Any) -> None:
    service = seeded(tmp_path / "data", "collecting")
    server = wsgi.server(service, threads=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    port = server.effective_port
    browser = open_browser()
    log_in(browser, f"http://127.0.0.1:{port}")
    server.close()
    thread.join(10)
    wait(browser, "return document.getElementById('notice').textContent.includes('does not answer')")
    again = wsgi.server(SeededService(settings(service.settings.data_dir, port=port)), threads=2)
    thread = threading.Thread(target=again.run)
    thread.start()
    wait(browser, "return document.getElementById('notice').textContent === ''")
    again.close()
    thread.join(10)


def test_logging_out_leads_back_to_the_form(tmp_path: Path, open_browser: Any, serve: Any) -> None:
    browser = open_browser()
    log_in(browser, serve(seeded(tmp_path / "data", "new")))
    browser.find_element(By.ID, "log-out").click()
    WebDriverWait(browser, 10).until(lambda driver: driver.find_elements(By.NAME, "password"))

"""The ranking and review pages in a real browser: by keyboard, in Chinese, and with hostile answers."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import label_config
from backend.annotations import (
    ParsedJudgement,
    ParsedRanking,
    parse_judgement,
    parse_ranking,
    ranking_task_data,
    review_task_data,
)
from backend.label_studio import LabelStudioClient
from scripts.label_studio_server import LabelStudioServer

pytestmark = pytest.mark.e2e

CARDS = ".htx-ranker-item"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "<meta http-equiv=refresh content='0;url=http://198.51.100.7/'><style>*{display:none}</style>"
)
_titles = (f"pages {number}" for number in itertools.count())


@pytest.fixture(scope="module")
def browser(label_studio: LabelStudioServer) -> Iterator[webdriver.Chrome]:
    """Chromium, signed in."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1360,1000")
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    made.get(f"{label_studio.url}/user/login/")
    made.find_element(By.NAME, "email").send_keys(label_studio.username)
    made.find_element(By.NAME, "password").send_keys(label_studio.password, Keys.ENTER)
    WebDriverWait(made, 30).until(lambda page: "/user/login" not in page.current_url)
    yield made
    made.quit()


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(label_studio.url, label_studio.token) as made:
        yield made


class Page:
    """The labeling page of a project with one task."""

    def __init__(
        self,
        browser: webdriver.Chrome,
        client: LabelStudioClient,
        kind: label_config.Name,
        data: dict[str, Any],
    ) -> None:
        xml = label_config.read(kind)
        self.project = client.create_project(title=next(_titles), label_config=xml)["id"]
        client.import_tasks(self.project, [data])
        self.client = client
        self.browser = browser
        browser.get(f"{client.url}/projects/{self.project}/data?labeling=1")
        self.wait(lambda page: page.find_elements(By.CSS_SELECTOR, ".rlhf-prompt"))

    def wait(self, condition: Any) -> Any:
        return WebDriverWait(self.browser, 30).until(condition)

    def cards(self) -> list[str]:
        return [card.text for card in self.browser.find_elements(By.CSS_SELECTOR, CARDS)]

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.browser).send_keys(key).pause(0.5).perform()

    def submit(self) -> dict[str, Any]:
        """By keyboard; the annotation that Label Studio then holds."""
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
        self.wait(lambda _: next(self.client.tasks(self.project))["annotations"])
        (annotation,) = next(self.client.tasks(self.project))["annotations"]
        return dict(annotation)


def test_answers_are_ranked_by_keyboard(browser: webdriver.Chrome, client: LabelStudioClient) -> None:
    answers = [("a1", "很长的回答"), ("a2", "短"), ("a3", "最好的")]
    page = Page(browser, client, "ranking", ranking_task_data("你好？", answers, source_key="k"))
    page.wait(lambda _: len(page.cards()) == 3)
    browser.execute_script(f"document.querySelectorAll('{CARDS}')[2].focus()")
    page.press(Keys.SPACE, Keys.UP, Keys.UP, Keys.SPACE)
    page.wait(lambda _: page.cards() == ["最好的", "很长的回答", "短"])
    browser.execute_script("document.activeElement.blur()")
    page.press("1")
    parsed = parse_ranking(page.submit(), ("a1", "a2", "a3"))
    assert parsed == ParsedRanking(order=(("a3",), ("a1",), ("a2",)), close=True)


def test_ids_do_not_show_and_hostile_answers_stay_text(
    browser: webdriver.Chrome, client: LabelStudioClient
) -> None:
    answers = [("a1f00ba4", HOSTILE), ("a2c0ffee", "两行\n文字")]
    page = Page(browser, client, "ranking", ranking_task_data(HOSTILE, answers, source_key="k"))
    page.wait(lambda _: len(page.cards()) == 2)
    assert page.cards() == [HOSTILE, "两行\n文字"]
    shown = browser.find_element(By.TAG_NAME, "body").text
    assert "a2c0ffee" not in shown
    assert browser.title != "owned"
    assert browser.current_url.startswith(client.url)


def test_review_is_judged_by_keyboard_and_stays_text(
    browser: webdriver.Chrome, client: LabelStudioClient
) -> None:
    page = Page(browser, client, "review", review_task_data("你好？", HOSTILE, "好", source_key="k"))
    page.wait(lambda p: "onerror" in p.find_element(By.CSS_SELECTOR, ".rlhf-pair").text)
    boxes = browser.find_elements(By.CSS_SELECTOR, ".rlhf-answer")
    assert boxes[0].rect["y"] == boxes[1].rect["y"]
    assert browser.title != "owned"
    page.press("3")
    assert parse_judgement(page.submit()) == ParsedJudgement("right")

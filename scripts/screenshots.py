"""Takes the pictures of docs/images: `make demo` in one terminal, `make screenshots` in another.

Needs Chromium (`make browser`). Logs in as people do; knows nothing of what the pages do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from backend.errors import BackendError
from backend.label_studio import LabelStudioClient
from backend.service import Service
from backend.settings import Settings, read_settings_file

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
PATIENCE_S = 30
READY = "return document.documentElement.dataset.ready === 'yes'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ranking.png, review.png and console.png."""
    parser = argparse.ArgumentParser(
        prog="make screenshots", description="Take the documentation's pictures."
    )
    parser.add_argument("--directory", type=Path, default=Path("var/demo"), help="of the running system")
    options = parser.parse_args(arguments)
    values = read_settings_file(options.directory / "settings.env")
    try:
        settings = Settings.from_environment(values)
        service = Service(settings)
        status = service.status(service.workspaces()[-1])
        IMAGES.mkdir(parents=True, exist_ok=True)
        with LabelStudioClient.of(settings) as client, _browser(1360, 900) as browser:
            _log_in_to_label_studio(browser, values)
            for name, project in (("ranking", status.ranking_project), ("review", status.review_project)):
                task = max(client.tasks(project, annotations=False), key=_contrast)["id"]
                _picture_of_task(browser, client.url, project, task, IMAGES / f"{name}.png")
        with _browser(1360, 1500) as browser:
            _picture_of_console(browser, settings, IMAGES / "console.png")
    except (BackendError, IndexError, ValueError, WebDriverException) as error:
        print(f"no pictures: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(sorted(path.name for path in IMAGES.glob('*.png')))} to {IMAGES}")
    return 0


def _contrast(task: dict[str, Any]) -> int:
    """How much longer the longest answer of a task is than the shortest, in characters."""
    data = task["data"]
    answers = [answer["body"] for answer in data.get("answers", ())] or [data["left"], data["right"]]
    lengths = [len(answer) for answer in answers]
    return max(lengths) - min(lengths)


def _browser(width: int, height: int) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def _log_in_to_label_studio(browser: webdriver.Chrome, values: dict[str, str]) -> None:
    browser.get(f"{values['LABEL_STUDIO_URL']}/user/login/")
    browser.find_element(By.NAME, "email").send_keys(values["LABEL_STUDIO_USERNAME"])
    browser.find_element(By.NAME, "password").send_keys(values["LABEL_STUDIO_PASSWORD"], Keys.ENTER)
    WebDriverWait(browser, PATIENCE_S).until(lambda page: "/user/login" not in page.current_url)


def _picture_of_task(browser: webdriver.Chrome, url: str, project: int, task: int, path: Path) -> None:
    browser.get(f"{url}/projects/{project}/data?task={task}")
    WebDriverWait(browser, PATIENCE_S).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".rlhf-prompt"))
    browser.find_element(By.CSS_SELECTOR, ".rlhf").screenshot(str(path))


def _picture_of_console(browser: webdriver.Chrome, settings: Settings, path: Path) -> None:
    browser.get(settings.backend_url)
    browser.find_element(By.NAME, "username").send_keys(settings.username)
    browser.find_element(By.NAME, "password").send_keys(settings.password, Keys.ENTER)
    WebDriverWait(browser, PATIENCE_S).until(lambda page: page.execute_script(READY))
    browser.save_screenshot(str(path))


if __name__ == "__main__":
    sys.exit(main())

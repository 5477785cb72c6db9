"""The simulated team at work in Label Studio: signs up, ranks and reviews through the REST API.

Each person has an account and a token of their own and sees what people see: the data of the tasks. Knows
nothing of the backend, of models, or of which answer is which.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from label_config import ANSWERS, JUDGEMENT, LEFT, PROMPT, RANKING, RIGHT, VERDICT
from scripts.accounts import Account, invitation, sign_up
from scripts.annotators import TEAM, Annotator, Person, Taste, assign, spread

Progress = Callable[[int, int], None]
"""Called with (done, total) after each annotation, from several threads."""
ATTEMPTS = 5
SECONDS_PER_TASK = 20.0
"""How long a simulated person claims to have read: a hasty ranking would count as suspicious."""


class TeamError(Exception):
    """A simulated person could not work in Label Studio; says what was answered."""


class SimulatedTeam:
    """People with one taste, each with an account in Label Studio."""

    def __init__(self, label_studio_url: str, administrator_token: str, taste: Taste, seed: int) -> None:
        """Signs the people up. Raises: AccountError."""
        link = invitation(label_studio_url, administrator_token)
        self._url = label_studio_url
        self._taste = taste
        self._seed = seed
        self._scale = 1.0
        self.people: list[tuple[Person, Account]] = [
            (person, sign_up(link, f"{person.name}@example.com", secrets.token_urlsafe(12)))
            for person in TEAM
        ]

    def rank(self, project: int, rankings: int, progress: Progress) -> int:
        """Rank the tasks of a project, some of them by two or three people; the number of rankings made."""
        tasks = self._tasks(project, needed=(PROMPT, ANSWERS))
        texts = [(t["data"][PROMPT], [a["body"] for a in t["data"][ANSWERS]]) for t in tasks]
        self._scale = spread(self._taste, texts, self._seed)

        def result(who: Annotator, task: dict[str, Any]) -> list[dict[str, Any]]:
            answers = task["data"][ANSWERS]
            ranked = who.rank(task["data"][PROMPT], [a["body"] for a in answers])
            ids = [answers[index]["id"] for index in ranked.order]
            regions = [_region(RANKING, ANSWERS, "ranker", {"ranker": {RANKING: ids}})]
            if ranked.judgement:
                regions.append(_region(JUDGEMENT, PROMPT, "choices", {"choices": [ranked.judgement]}))
            return regions

        pairs = assign(len(tasks), len(self.people), rankings)
        return self._annotate([(person, tasks[task]) for task, person in pairs], result, progress)

    def review(self, project: int, progress: Progress) -> int:
        """Judge each comparison of a project blind, one person each; the number of judgements made."""
        tasks = self._tasks(project, needed=(PROMPT, LEFT, RIGHT))

        def result(who: Annotator, task: dict[str, Any]) -> list[dict[str, Any]]:
            data = task["data"]
            side = who.compare(data[PROMPT], data[LEFT], data[RIGHT])
            return [_region(VERDICT, PROMPT, "choices", {"choices": [side]})]

        work = [(index % len(self.people), task) for index, task in enumerate(tasks)]
        return self._annotate(work, result, progress)

    def _tasks(self, project: int, needed: Iterable[str]) -> list[dict[str, Any]]:
        """The open tasks of a project that hold these fields, oldest first."""
        found: list[dict[str, Any]] = []
        with self._browser(self.people[0][1]) as browser:
            for page in range(1, 1000):
                answer = browser.get(
                    "/api/tasks", params={"project": project, "page": page, "page_size": 500, "fields": "all"}
                )
                _check(answer)
                found += answer.json()["tasks"]
                if len(found) >= int(answer.json()["total"]):
                    break
        complete = [t for t in found if all(t["data"].get(name) for name in needed)]
        return sorted((t for t in complete if not t.get("total_annotations")), key=lambda t: int(t["id"]))

    def _annotate(
        self,
        work: Sequence[tuple[int, dict[str, Any]]],
        result: Callable[[Annotator, dict[str, Any]], list[dict[str, Any]]],
        progress: Progress,
    ) -> int:
        """Let the people work at the same time, each on their own tasks in turn."""
        done = 0
        counting = threading.Lock()

        def work_of(index: int) -> None:
            nonlocal done
            person, account = self.people[index]
            annotator = Annotator(person, self._taste, self._seed, self._scale)
            with self._browser(account) as browser:
                for task in (task for who, task in work if who == index):
                    _submit(browser, int(task["id"]), result(annotator, task))
                    with counting:
                        done += 1
                        progress(done, len(work))

        with ThreadPoolExecutor(len(self.people)) as pool:
            for finished in [pool.submit(work_of, index) for index in range(len(self.people))]:
                finished.result()
        return done

    def _browser(self, account: Account) -> httpx.Client:
        return httpx.Client(
            base_url=self._url, headers={"Authorization": f"Token {account.token}"}, timeout=60
        )


def _submit(browser: httpx.Client, task: int, result: list[dict[str, Any]]) -> None:
    """Raises: TeamError: Label Studio refuses also after several attempts (its SQLite may be busy)."""
    for attempt in range(1, ATTEMPTS + 1):
        answer = browser.post(
            f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": SECONDS_PER_TASK}
        )
        if answer.status_code < 500 or attempt == ATTEMPTS:
            break
        time.sleep(0.5 * attempt)
    _check(answer)


def _check(answer: httpx.Response) -> None:
    if answer.status_code >= 400:
        raise TeamError(
            f"Label Studio answered {answer.status_code} to {answer.request.method} {answer.request.url.path}"
        )


def _region(name: str, target: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": target, "type": kind, "value": value}

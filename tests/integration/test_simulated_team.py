"""The simulated team in a real Label Studio: real accounts, real annotations that the backend can read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

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
from scripts.accounts import AccountError, invitation, sign_up
from scripts.label_studio_server import LabelStudioServer
from scripts.simulated_team import SimulatedTeam

pytestmark = pytest.mark.integration
TASKS = 8


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(label_studio.url, label_studio.token, 60.0) as client:
        yield client


@pytest.fixture(scope="module")
def team(label_studio: LabelStudioServer) -> SimulatedTeam:
    return SimulatedTeam(label_studio.url, label_studio.token, shorter, seed=0)


def shorter(_prompt: str, answers: list[str], _rng: random.Random) -> list[float]:
    return [-float(len(answer)) for answer in answers]


def project(client: LabelStudioClient, kind: label_config.Name, tasks: list[dict[str, Any]]) -> int:
    made = client.create_project(title=f"team {kind}", label_config=label_config.read(kind))
    client.import_tasks(int(made["id"]), tasks)
    return int(made["id"])


def test_people_rank_under_their_own_names_as_the_backend_reads_it(
    client: LabelStudioClient, team: SimulatedTeam
) -> None:
    answers = [("a1", "一" * 90), ("a2", "一" * 5), ("a3", "一" * 40)]
    tasks = [ranking_task_data(f"问题 {n}", answers, source_key=f"k{n}") for n in range(TASKS)]
    ranking = project(client, "ranking", tasks)
    counted: list[int] = []
    assert team.rank(ranking, 12, lambda done, _total: counted.append(done)) == 12
    assert counted == list(range(1, 13))

    annotations = [a for task in client.tasks(ranking) for a in task["annotations"]]
    parsed = [parse_ranking(annotation, ["a1", "a2", "a3"]) for annotation in annotations]
    assert len(parsed) == 12
    assert all(isinstance(ranked, ParsedRanking) for ranked in parsed)
    assert len({annotation["completed_by"] for annotation in annotations}) == 3
    right = sum(r.order == (("a2",), ("a3",), ("a1",)) for r in parsed if isinstance(r, ParsedRanking))
    assert right >= 10


def test_people_review_what_is_open_and_only_once(client: LabelStudioClient, team: SimulatedTeam) -> None:
    tasks = [
        review_task_data(f"问题 {n}", *(("短。", "长" * 50)[:: 1 if n % 2 else -1]), source_key=f"r{n}")
        for n in range(TASKS)
    ]
    review = project(client, "review", tasks)
    assert team.review(review, lambda _done, _total: None) == TASKS
    assert team.review(review, lambda _done, _total: None) == 0

    for task in client.tasks(review):
        judged = parse_judgement(task["annotations"][0])
        assert isinstance(judged, ParsedJudgement)
        assert judged.side == ("left" if task["data"]["left"] == "短。" else "right")


def test_account_is_made_once_and_found_again(label_studio: LabelStudioServer) -> None:
    link = invitation(label_studio.url, label_studio.token)
    first = sign_up(link, "dora@example.com", "a-long-password")
    assert sign_up(link, "dora@example.com", "a-long-password").token == first.token
    assert "a-long-password" not in repr(first)
    with pytest.raises(AccountError, match="dora@example"):
        sign_up(link, "dora@example.com", "another-password")


def test_refused_account_and_wrong_token_are_said(label_studio: LabelStudioServer) -> None:
    link = invitation(label_studio.url, label_studio.token)
    with pytest.raises(AccountError, match="short@example"):
        sign_up(link, "short@example.com", "x")
    with pytest.raises(AccountError, match="status 401"):
        invitation(label_studio.url, "0" * 40)

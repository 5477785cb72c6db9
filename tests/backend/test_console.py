"""The console's JSON and actions; its look is tests/e2e/test_console.py's."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend import console as console_package
from backend.app import create_app
from backend.console.live import MOST_POINTS, live_view
from backend.tables import MetricRow, RunRow, WorkspaceRow
from tests.backend.console_seed import STAGES, Stage
from tests.backend.web import AUTHORISED, SeededService, csrf_of, seeded, settings

STATIC = Path(console_package.__file__).parent / "static"


def client_of(service: SeededService) -> FlaskClient:
    client = create_app(service).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = AUTHORISED["Authorization"]
    return client


def status_of(directory: Path, stage: Stage | None) -> Any:
    return client_of(seeded(directory, stage)).get("/api/status").json


def test_without_a_workspace_the_page_says_so(tmp_path: Path) -> None:
    assert status_of(tmp_path, None) == {"workspaces": [], "status": None}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_five_steps_and_a_next_sentence(tmp_path: Path, stage: Stage) -> None:
    status = status_of(tmp_path, stage)["status"]
    assert [step["key"] for step in status["steps"]] == ["candidates", "rankings", "reward", "ppo", "review"]
    assert status["next_zh"]
    assert status["next_en"]


def test_curves_appear_with_their_runs(tmp_path: Path) -> None:
    assert status_of(tmp_path / "a", "collecting")["curves"] == {}
    rewarding = status_of(tmp_path / "b", "rewarding")["curves"]
    assert len(rewarding["reward/loss"]) == 34
    assert "objective/score" not in rewarding
    tuning = status_of(tmp_path / "c", "tuning")["curves"]
    assert {"reward/accuracy", "objective/score", "objective/kl"} <= set(tuning)
    assert [step for step, _ in tuning["objective/kl"]] == list(range(1, 23))


def test_long_curves_are_thinned_but_keep_their_ends(tmp_path: Path) -> None:
    service = seeded(tmp_path, "rewarding")
    with service.store.session() as session:
        for step in range(100, 1100):
            row = MetricRow(run_id="reward-5e6f7a8b", step=step, name="reward/loss", value=step / 2, time=0)
            session.add(row)
    points = live_view(service, "team")["curves"]["reward/loss"]
    assert len(points) == MOST_POINTS
    assert points[0][0] == 1
    assert points[-1] == (1099, 549.5)


def test_values_that_json_does_not_know_are_left_out(tmp_path: Path) -> None:
    service = seeded(tmp_path, "rewarding")
    with service.store.session() as session:
        for step, value in ((200, float("inf")), (201, float("-inf")), (202, 0.5)):
            session.add(
                MetricRow(run_id="reward-5e6f7a8b", step=step, name="reward/loss", value=value, time=0)
            )
    response = client_of(service).get("/api/status")
    assert "Infinity" not in response.text
    assert response.json["curves"]["reward/loss"][-1] == [202, 0.5]  # type: ignore[index]


def test_samples_show_how_the_answer_to_a_prompt_changed(tmp_path: Path) -> None:
    samples = status_of(tmp_path, "tuning")["samples"]
    assert len(samples) == 4
    steps = [answer["step"] for answer in samples[0]["answers"]]
    assert steps == sorted(steps)
    assert samples[0]["answers"][0]["text"] != samples[0]["answers"][-1]["text"]


def test_links_lead_to_the_three_projects(tmp_path: Path) -> None:
    links = status_of(tmp_path, "new")["links"]
    assert links == {
        "prompts": "http://127.0.0.1:8080/projects/11/data",
        "ranking": "http://127.0.0.1:8080/projects/12/data",
        "review": "http://127.0.0.1:8080/projects/13/data",
    }


def test_links_use_the_address_that_browsers_reach(tmp_path: Path) -> None:
    seeded(tmp_path, "new").store.close()
    service = SeededService(settings(tmp_path, label_studio_public_url="https://labels.example/"))
    assert live_view(service, "team")["links"]["review"] == "https://labels.example/projects/13/data"


def test_an_unchanged_status_is_not_sent_again(tmp_path: Path) -> None:
    service = seeded(tmp_path, "collecting")
    client = client_of(service)
    tag = client.get("/api/status").headers["ETag"]
    assert client.get("/api/status", headers={"If-None-Match": tag}).status_code == 304
    with service.store.session() as session:
        session.get_one(RunRow, "generate-1a2b3c4d").progress_done = 7
    assert client.get("/api/status", headers={"If-None-Match": tag}).status_code == 200


def test_the_named_workspace_is_shown_and_an_unknown_one_is_404(tmp_path: Path) -> None:
    client = client_of(seeded(tmp_path, "new"))
    assert client.get("/api/status?workspace=team").json["status"]["workspace"] == "team"  # type: ignore[index]
    missing = client.get("/api/status?workspace=../etc")
    assert missing.status_code == 404
    assert "setup_project" in missing.json["error"]["message"]  # type: ignore[index]


def test_buttons_reach_the_service(tmp_path: Path) -> None:
    service = seeded(tmp_path)
    client = create_app(service).test_client()
    headers = {"X-CSRF-Token": csrf_of(client)}
    for address, body in (
        ("/api/workspaces/team/train", {}),
        ("/api/workspaces/team/ppo", {}),
        ("/api/workspaces/team/promote", {"model": "policy-team-1"}),
        ("/api/workspaces/team/conclude", {}),
        ("/api/workspaces/team/apply", {"advice": "kl_stop"}),
        ("/api/workspaces/team/revert", {"advice": "kl_stop"}),
        ("/api/runs/ppo-9c0d1e2f/cancel", {}),
        ("/api/runs/ppo-9c0d1e2f/retry", {}),
    ):
        assert client.post(address, json=body, headers=headers).status_code == 200, address
    assert service.calls == [
        ("start_training", 12),
        ("start_ppo", "team"),
        ("promote", "team", "policy-team-1"),
        ("conclude", "team"),
        ("apply", "team", "kl_stop"),
        ("revert", "team", "kl_stop"),
        ("cancel", "ppo-9c0d1e2f"),
        ("retry", "ppo-9c0d1e2f"),
    ]


def test_what_is_not_possible_says_why(tmp_path: Path) -> None:
    client = client_of(seeded(tmp_path, "reviewing"))
    refused = client.post("/api/workspaces/team/rollback")
    assert refused.status_code == 409
    assert "base" in refused.json["error"]["message"]  # type: ignore[index]
    assert client.post("/api/workspaces/team/promote", json={"model": 7}).status_code == 400
    assert client.post("/api/workspaces/team/apply", json={}).status_code == 400
    assert client.post("/api/workspaces/team/revert", json={}).status_code == 400
    assert client.post("/api/workspaces/nobody/train").status_code == 404


@pytest.mark.parametrize("path", ["../live.py", "%2e%2e/live.py", "..%2flive.py", "/etc/passwd", "x\0y"])
def test_static_files_do_not_lead_out_of_their_directory(tmp_path: Path, path: str) -> None:
    client = client_of(seeded(tmp_path, None))
    assert client.get(f"/static/{path}", follow_redirects=True).status_code == 404
    assert client.get("/static/console.css", buffered=True).status_code == 200


def test_the_page_holds_no_script_or_style_of_its_own(tmp_path: Path) -> None:
    page = client_of(seeded(tmp_path, None)).get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert "<style" not in page
    assert not re.search(r"\sstyle=|\son\w+=", page)
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize(
    ("accepted", "cookie", "language"),
    [
        ("zh-CN,zh;q=0.9", None, "zh-CN"),
        ("de", None, "en"),
        ("zh-CN", "en", "en"),
        ("en", "zh", "zh-CN"),
        ("en", "<x>", "en"),
    ],
)
def test_language_is_chosen_then_the_browsers(
    tmp_path: Path, accepted: str, cookie: str | None, language: str
) -> None:
    client = client_of(seeded(tmp_path, None))
    if cookie:
        client.set_cookie("language", cookie)
    assert f'<html lang="{language}"' in client.get("/", headers={"Accept-Language": accepted}).text


def test_every_text_exists_in_both_languages_and_every_used_key_exists() -> None:
    texts = (STATIC / "texts.js").read_text(encoding="utf-8")
    body = texts[texts.index("const TEXTS = {") : texts.index("};\n")]
    pairs = {
        match[1]: ast.literal_eval(match[2])
        for match in re.finditer(r"^  (\w+): (\[(?:[^\]]|\n)*?\]),$", body, flags=re.MULTILINE)
    }
    assert len(pairs) > 100
    for key, (chinese, english) in pairs.items():
        assert chinese, key
        assert english, key
        assert set(re.findall(r"\{\w+\}", chinese)) == set(re.findall(r"\{\w+\}", english)), key
    scripts = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    used = set(re.findall(r"\bt\(\"(\w+)\"", scripts))
    assert used - set(pairs) == set()


def test_no_script_writes_markup() -> None:
    for path in STATIC.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()
        )


def test_two_workspaces_are_both_offered(tmp_path: Path) -> None:
    service = seeded(tmp_path, "new")
    with service.store.session() as session:
        session.add(
            WorkspaceRow(id="b", title="B", prompts_project=21, ranking_project=22, review_project=23)
        )
    view = live_view(service, "team")
    assert [one["id"] for one in view["workspaces"]] == ["team", "b"]

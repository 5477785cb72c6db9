"""The command line beside a server that is not there: what it prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backend.__main__ import main
from backend.settings import Settings
from backend.store import Store
from backend.tables import RoundRow, RunRow
from tests.backend.console_seed import seed


@pytest.fixture
def seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "f" * 40)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SETTINGS_FILE", str(tmp_path / "none.env"))
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(Settings.from_environment().store_url)
    store.create_all()
    seed(store, "decided")
    store.close()
    return tmp_path


def test_status_shows_steps_rounds_runs_metrics_and_the_next_step(
    seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    for expected in ("candidates", "下一步", "team-r1", "ppo-", "objective/kl", "better", "127.0.0.1:9090"):
        assert expected in shown, expected


def test_rounds_table_says_in_both_languages_why_a_round_stopped(
    seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(Settings.from_environment().store_url)
    with store.session() as session:
        current = session.query(RoundRow).one()
        current.state, current.failure, current.reason = "failed", "disk", "no space on `/data`"
    store.close()
    assert main(["status"]) == 0
    rounds = capsys.readouterr().out.partition("rounds · 轮次")[2].partition("models · 模型")[0]
    assert "磁盘已满" in rounds and "no space on `/data`" in rounds


def test_status_of_an_empty_system_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "f" * 40)
    assert main(["status"]) == 0
    assert "scripts.setup_project" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["status", "--workspace", "nobody"], "there is no workspace `nobody`"),
        (["promote", "policy-team-9"], "there is no model `policy-team-9`"),
        (["conclude"], "no review is open in `team`"),
        (["cancel", "reward-99"], "there is no run `reward-99`"),
        (["retry", "reward-99"], "there is no run `reward-99`"),
        (["adjudicate"], "does not answer"),
        (["exclude", "--annotator", "9"], "annotator `9` has no ranking in `team`; those who have: #1"),
        (["include", "--annotator", "1"], "annotator `1` is not excluded in `team`"),
        (["lineage", "policy-team-9"], "there is no model `policy-team-9`"),
        (["apply", "nonsense"], "the advice `nonsense` is not given now; what can be applied: `promote`"),
        (["report", "team-r9"], "there is no round `team-r9`"),
        (["report", "--out", "/proc/none/report.txt"], "`/proc/none/report.txt` cannot be written"),
    ],
)
def test_what_does_not_exist_is_one_line_on_stderr(
    seeded: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert main(command) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""


def test_missing_settings_are_listed_without_a_traceback(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin", "DATA_DIR": str(tmp_path), "BACKEND_PORT": "none"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "backend", "serve"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "`LABEL_STUDIO_API_KEY`" in done.stderr and "`BACKEND_PORT`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "file", "columns"),
    [
        ("trl", "preferences.jsonl", {"prompt", "chosen", "rejected"}),
        ("llama-factory", "rankings.jsonl", {"instruction", "chosen", "rejected"}),
    ],
)
def test_export_writes_the_rankings_as_preferences(
    seeded: Path, tmp_path: Path, kind: str, file: str, columns: set[str]
) -> None:
    assert main(["export", "--format", kind, "--out", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / file).read_text(encoding="utf-8").splitlines()
    assert lines and columns <= set(json.loads(lines[0]))


def test_conclude_asks_the_server_for_the_verdict(seeded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(Settings.from_environment().store_url)
    with store.session() as session:
        session.get_one(RoundRow, "team-r1").state = "reviewing"
    assert main(["conclude"]) == 0
    assert "the verdict follows" in capsys.readouterr().out
    with store.reading() as session:
        assert session.get_one(RoundRow, "team-r1").conclude_asked
    store.close()


def test_report_is_text_json_or_a_page(seeded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    text = capsys.readouterr().out
    assert "The new model is better" in text and "31 胜 wins" not in text and "40 / 40" in text
    assert main(["report", "team-r1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"]["verdict"], found["model"]) == ("better", "policy-team-1")
    assert found["round_id"] == "team-r1"
    assert len(found["examples"]) == 40 and found["reward"]["accuracy"] == 0.914
    assert [standing["version"] for standing in found["leaderboard"]] == ["policy-team-1", "base"]
    page = seeded / "new" / "report.html"
    assert main(["report", "--format", "html", "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    written = page.read_text(encoding="utf-8")
    assert '<meta charset="utf-8">' in written and "<svg" in written and "新模型更好" in written


def test_report_of_a_review_under_way_keeps_it_blind(
    seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(Settings.from_environment().store_url)
    with store.session() as session:
        current = session.get_one(RoundRow, "team-r1")
        current.state, current.verdict = "reviewing", None
    store.close()
    assert main(["report", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["examples"], found["leaderboard"]) == ({}, [], [])
    assert main(["report"]) == 0
    assert "No verdict yet" in capsys.readouterr().out


def test_report_without_a_round_says_what_begins_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "f" * 40)
    assert main(["report"]) == 2
    assert "there is no round yet" in capsys.readouterr().err


def test_training_with_label_studio_away_uses_the_rankings_that_are_known(
    seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train"]) == 0
    assert "has started" in capsys.readouterr().out


def test_help_explains_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in (
        "serve",
        "status",
        "train",
        "conclude",
        "promote",
        "rollback",
        "apply",
        "cancel",
        "retry",
        "report",
        "export",
    ):
        assert command in shown


def test_narrow_terminal_cuts_no_sentence(
    seeded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    store = Store(Settings.from_environment().store_url)
    with store.session() as session:
        run = session.query(RunRow).filter_by(kind="generate").one()
        run.state, run.failure, run.error = "failed", "model_missing", "`x` does not exist"
    store.close()
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "或先下载模型，然后重试（详情：`x`doesnotexist）" in "".join(shown.split())


def test_excluded_annotator_marks_the_models_until_included_again(
    seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["exclude", "--annotator", "2", "--reason", "guesses"]) == 0
    assert "44 rankings of annotator `2` do not count any more" in capsys.readouterr().out
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "depends on 132 rankings, 44 of them gone or changed" in shown and "依赖 132 个排序" in shown
    assert "44 of the 132 rankings that the reward model learned from" in shown
    assert main(["report", "team-r1"]) == 0
    assert "rankings behind the model that are gone or changed: 44 / 132" in capsys.readouterr().out
    assert main(["export", "--out", str(seeded / "export")]) == 0
    assert "from 88 rankings" in capsys.readouterr().out
    assert main(["include", "--annotator", "2"]) == 0
    assert "44 rankings of annotator `2` count again" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert "gone or changed" not in capsys.readouterr().out


def test_lineage_is_text_or_json(seeded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "policy-team-1"]) == 0
    shown = capsys.readouterr().out
    for expected in ("policy-team-1 (policy)", "reward-team-1", "seed=7", "132 个排序 rankings: 132 不变"):
        assert expected in shown, expected
    assert main(["lineage", "policy-team-1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["id"] for model in found["models"]] == ["policy-team-1", "reward-team-1"]
    assert len(found["rankings"]) == 132 and found["rankings"][0]["annotation"] == 5000

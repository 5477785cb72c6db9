from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainers.errors import RunError
from trainers.metrics import METRICS, Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_the_documented_table_is_the_list_in_the_code() -> None:
    curves = DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", curves, re.MULTILINE)
    assert rows == list(METRICS.items())


def test_unknown_name_is_refused_and_nothing_written(path: Path) -> None:
    with Metrics(path) as metrics, pytest.raises(ValueError, match="reward/los"):
        metrics.log(1, **{"reward/loss": 0.5, "reward/los": 0.5})
    assert path.read_bytes() == b""


def test_each_kind_of_line_is_there_at_once(path: Path) -> None:
    with Metrics(path) as metrics:
        metrics.log(3, **{"objective/kl": 1, "objective/score": 0.25})
        metrics.progress(12, 200, "candidates")
        metrics.sample(3, prompt_id="p1", prompt="问\n题", response="答", score=1.5)
        first, second, third = lines_of(path)
    assert first["step"] == 3
    assert first["metrics"] == {"objective/kl": 1.0, "objective/score": 0.25}
    assert first["time"] > 1.7e9
    assert second["progress"] == {"done": 12, "total": 200, "what": "candidates"}
    assert third["sample"] == {"prompt_id": "p1", "prompt": "问\n题", "response": "答", "score": 1.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_no_number_is_a_gap(path: Path, value: float) -> None:
    with Metrics(path) as metrics:
        metrics.log(1, **{"ppo/explained_variance": value, "objective/kl": 0.5})
        metrics.log(2, **{"ppo/explained_variance": value})
        metrics.sample(2, prompt_id="p1", prompt="?", response="", score=value)
    first, second = lines_of(path)
    assert first["metrics"] == {"objective/kl": 0.5}
    assert second["sample"]["score"] is None


def test_resume_cuts_what_came_after_the_checkpoint(path: Path) -> None:
    with Metrics(path) as metrics:
        metrics.log(1, **{"objective/kl": 1})
        offset = metrics.offset
        metrics.log(2, **{"objective/kl": 2})
    assert offset < path.stat().st_size
    with Metrics(path, offset) as metrics:
        assert metrics.offset == offset
        metrics.log(2, **{"objective/kl": 3})
    assert [line["metrics"]["objective/kl"] for line in lines_of(path)] == [1, 3]


def test_half_written_last_line_is_dropped(path: Path) -> None:
    whole = b'{"step": 1}\n'
    path.write_bytes(whole + b'{"step": 2, "sample": "' + b"x" * 200_000)
    with Metrics(path) as metrics:
        assert metrics.offset == len(whole)
    assert path.read_bytes() == whole


def test_file_shorter_than_the_checkpoint_says_is_an_error(path: Path) -> None:
    path.write_bytes(b"{}\n")
    with pytest.raises(RunError, match="shorter than the checkpoint says"):
        Metrics(path, 100)

"""The model class as each version of label-studio-ml calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.model import RankingBackend, answer_ids, project_number
from label_config import ANSWERS, RANKING
from tests.backend.console_seed import RANKING_PROJECT
from tests.backend.web import SeededService, seeded


@pytest.fixture
def service(tmp_path: Path) -> SeededService:
    return seeded(tmp_path)


@pytest.fixture
def model_class(service: SeededService) -> type[RankingBackend]:
    return type("Bound", (RankingBackend,), {"service": service})


def task(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"answers": [{"id": f"a{number:04x}{k:04x}", "body": "…"} for k in range(3)]},
    }


def test_predicts_the_tasks_own_ids_from_best_to_worst(model_class: type[RankingBackend]) -> None:
    (prediction,) = model_class(project_id=f"{RANKING_PROJECT}.17").predict([task(7)])
    assert prediction["model_version"] == "reward-team-1"
    assert 0 < prediction["score"] < 1
    assert prediction["result"] == [
        {
            "from_name": RANKING,
            "to_name": ANSWERS,
            "type": "ranker",
            "value": {"ranker": {RANKING: ["a00070001", "a00070002", "a00070000"]}},
        }
    ]


def test_a_task_without_scores_gets_no_prediction_in_its_place(model_class: type[RankingBackend]) -> None:
    strange = {"id": 9, "data": {"answers": [{"id": "a-stranger"}]}}
    found = model_class(project_id="12").predict([task(1), strange, {"data": {}}, task(2)])
    assert [bool(one) for one in found] == [True, False, False, True]


def test_fits_label_studio_ml_2(model_class: type[RankingBackend], service: SeededService) -> None:
    """As its api.py calls it: a model per request, `get`, parameters as a dict, fit(event, data)."""
    model = model_class(str(RANKING_PROJECT), label_config="<View/>")
    model.set_extra_params({"a": "dict breaks 2.x's own"})
    assert model.get("model_version") == "reward-team-1"
    assert len(model.predict([task(1)], context={}, login=None)) == 1
    assert model.fit("START_TRAINING", {"project": {}})["job"] == "reward-00000001"
    assert service.calls == [("start_training", RANKING_PROJECT)]


def test_other_events_are_hints(model_class: type[RankingBackend], service: SeededService) -> None:
    assert model_class(project_id="12").fit(event="ANNOTATION_CREATED") == {}
    assert service.calls == [("hint", 12, "ANNOTATION_CREATED")]


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (21, 21),
        ("21", 21),
        ("21.1795331823", 21),
        (None, 0),
        ("", 0),
        ("x", 0),
        ("-1", 0),
        ("２１", 0),
        (True, 0),
    ],
)
def test_project_number(given: object, number: int) -> None:
    assert project_number(given) == number


@pytest.mark.parametrize(
    "data", [None, [], {"answers": "x"}, {"answers": [1]}, {"answers": [{"id": "a"}, {}]}]
)
def test_no_answers_in_what_is_no_ranking_task(data: object) -> None:
    assert answer_ids({"data": data}) == []


def test_the_web_process_does_not_load_torch() -> None:
    code = (
        "import sys, backend.wsgi; heavy = {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

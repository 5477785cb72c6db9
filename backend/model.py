"""The `LabelStudioMLBase` subclass, and the manager that replaces label-studio-ml 1.0.9's.

Translates between the ML backend protocol and `Service`; loads no model, trains nothing, keeps no state. The
class fits both label-studio-ml 1.0.9, which calls it through `BackendManager`, and 2.x, which makes one per
request. `backend.app` mounts both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from backend import store
from backend.predictions import Prediction
from backend.service import Service
from label_config import ANSWERS, RANKING


@contextmanager
def _tamed() -> Iterator[None]:
    """Import label-studio-ml without torch and without its habit to send tracebacks to clients."""
    hide_torch = "torch" not in sys.modules
    if hide_torch:  # it wants torch.multiprocessing for processes that we never start: 300 MB
        sys.modules["torch"] = None  # type: ignore[assignment] # makes `import torch` an ImportError
    from label_studio_ml import exceptions

    original, exceptions.exception_handler = exceptions.exception_handler, lambda route: route
    try:
        yield
    finally:
        exceptions.exception_handler = original
        if hide_torch:
            del sys.modules["torch"]


with _tamed():
    from label_studio_ml import api as label_studio_ml_api
    from label_studio_ml import model as label_studio_ml_model

_Manager = getattr(label_studio_ml_model, "LabelStudioMLManager", object)  # 2.x has none

START_TRAINING = "START_TRAINING"


class RankingBackend(label_studio_ml_model.LabelStudioMLBase):  # type: ignore[misc] # the library has no types
    """Predicts rankings from stored reward scores; Start Training starts the reward model."""

    service: ClassVar[Service]

    def __init__(self, project_id: str | None = None, label_config: str | None = None, **_: Any) -> None:
        # neither version's constructor is called: they fill caches with the label config, which we never read
        self.project = project_number(project_id)

    @property
    def model_version(self) -> str:
        return self.service.model_version(self.project)

    def predict(self, tasks: Sequence[Mapping[str, Any]], **_: Any) -> list[dict[str, Any] | list[Any]]:
        """One prediction a task, in the same order; an empty list where scores are missing.

        Label Studio stores nothing for an empty list. An empty result it would store, and serve that task
        first under uncertainty sampling.
        """
        answers = [answer_ids(task) for task in tasks]
        found = self.service.predictions(self.project, answers)
        return [[] if prediction is None else _as_stored(prediction) for prediction in found]

    def fit(self, *arguments: Any, event: str = "", **_: Any) -> dict[str, Any]:
        """Start Training; any other event is a hint to look at the project."""
        event = event or next(
            (given for given in arguments if isinstance(given, str)), ""
        )  # 2.x: fit(event, …)
        if event != START_TRAINING:
            self.service.hint(self.project, event)
            return {}
        answer = self.service.start_training(self.project)
        reasons = {"reason_zh": answer.reason_zh, "reason_en": answer.reason_en}
        return {"job": answer.run_id, "started": answer.started, **reasons}

    def get(self, key: str) -> str | None:
        """2.x reads its cache through this; ours has the model's version only."""
        return self.model_version if key == "model_version" else None

    def set(self, key: str, value: str) -> None:
        """2.x writes label config and parameters here; nothing of it is needed."""

    def set_extra_params(self, extra_params: object) -> None:
        """2.x fails on a dict here; ours needs none."""


class BackendManager(_Manager):  # type: ignore[misc, valid-type] # the library has no types
    """Replaces 1.0.9's manager: a model per request instead of one for all, no process or file per event."""

    def __init__(self, backend: type[RankingBackend]) -> None:
        self.backend = backend

    def initialize(self, model_class: type[RankingBackend], **_: Any) -> None:
        self.backend = model_class

    def fetch(self, project: str | None = None, *_: Any, **__: Any) -> RankingBackend:
        return self.backend(project_id=project)

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], project: str | None = None, *_: Any, **__: Any
    ) -> tuple[list[dict[str, Any] | list[Any]], RankingBackend]:
        model = self.fetch(project)
        return model.predict(tasks), model

    def webhook(self, event: str, data: Mapping[str, Any]) -> dict[str, Any]:
        return self.fetch(data["project"]["id"]).fit(event=event)

    def train(self, _annotations: object, project: str | None = None, *_: Any, **__: Any) -> _Job | None:
        """What Label Studio's Start Training calls where its webhook feature flag is off."""
        job = self.fetch(project).fit(event=START_TRAINING)["job"]
        return _Job(job) if job else None

    def is_training(self, project: str | None) -> dict[str, Any]:
        model = self.fetch(project)
        with model.service.store.reading() as session:
            workspace = store.workspace_of_project(session, model.project)
            runs = store.runs(session, workspace.id) if workspace else ()
        running = next((run.id for run in runs if run.state in ("queued", "running")), None)
        return {"is_training": running is not None, "job_id": running, "model_version": model.model_version}

    def _get_models_from_workdir(self, project: str | None) -> list[str]:
        return [self.fetch(project).model_version]


class _Job:
    def __init__(self, job_id: str) -> None:
        self.id = job_id


def _as_stored(prediction: Prediction) -> dict[str, Any]:
    """As Label Studio stores it."""
    ranker = {
        "from_name": RANKING,
        "to_name": ANSWERS,
        "type": "ranker",
        "value": {"ranker": {RANKING: list(prediction.order)}},
    }
    return {"model_version": prediction.model_version, "score": prediction.score, "result": [ranker]}


def project_number(project: object) -> int:
    """Label Studio's project id from `21`, `"21"` or `"21.1795331823"`; 0, which is none, else."""
    number = str(project).partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 12 else 0


def answer_ids(task: Mapping[str, Any]) -> list[str]:
    """Ids of the task's answers in displayed order; empty for a task that is no ranking task."""
    data = task.get("data")
    answers = data.get(ANSWERS) if isinstance(data, Mapping) else None
    if not isinstance(answers, list):
        return []
    ids = [str(answer["id"]) for answer in answers if isinstance(answer, Mapping) and "id" in answer]
    return ids if len(ids) == len(answers) else []


def mount_point(service: Service) -> Any:
    """label-studio-ml's Flask application with our model in it. One per process: the newest service's."""
    backend = type("RankingBackend", (RankingBackend,), {"service": service})
    if hasattr(label_studio_ml_api, "_manager"):
        label_studio_ml_api._manager = BackendManager(backend)
    return label_studio_ml_api.init_app(backend)

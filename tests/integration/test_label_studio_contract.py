"""What we believe about Label Studio, held against a real one and against the fake of the unit tests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

import label_config
from backend.annotations import ranking_prediction, ranking_task_data
from backend.errors import NotFoundError, RejectedError, UnauthorisedError
from backend.label_studio import LabelStudioClient
from scripts.accounts import invitation, sign_up
from scripts.label_studio_server import LabelStudioServer
from scripts.setup_project import marker
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result

Connect = Callable[[str], LabelStudioClient]
_titles = (f"contract {number}" for number in itertools.count())
HOOK = "http://127.0.0.1:9/hooks"
BACKEND = "http://127.0.0.1:9"  # the discard port: nothing answers there


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.integration)])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Gives a client for an API key; an empty one means the administrator's."""
    clients = []

    def make(api_key: str) -> LabelStudioClient:
        client = LabelStudioClient(url, api_key or token, backoff_s=0, transport=transport)
        clients.append(client)
        return client

    if request.param == "real":
        server = request.getfixturevalue("label_studio")
        url, token, transport = server.url, server.token, None
    else:
        fake = FakeLabelStudio()
        url, token, transport = fake.url, TOKEN, fake.transport()
    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Connect) -> LabelStudioClient:
    return connect("")


@pytest.fixture
def project(client: LabelStudioClient) -> int:
    made = client.create_project(title=next(_titles), label_config=label_config.read("ranking"))
    return int(made["id"])


def task_data(key: str = "k") -> dict[str, object]:
    return ranking_task_data("问题？", [("a1", "一"), ("a2", "二")], source_key=key)


def test_version_is_the_tested_one(client: LabelStudioClient) -> None:
    assert client.check() == "1.23.2"


def test_wrong_token_is_refused_but_the_version_is_told(connect: Connect) -> None:
    stranger = connect("0" * 40)
    assert stranger.version() == "1.23.2"
    with pytest.raises(UnauthorisedError, match="LABEL_STUDIO_API_KEY"):
        stranger.check()


def test_users_have_a_number_and_an_address(client: LabelStudioClient) -> None:
    [user, *_] = client.users()
    assert isinstance(user["id"], int)
    assert (user["first_name"], user["last_name"]) == ("", "")
    assert "@example.com" in user["email"]


def test_clock_is_near_ours_or_the_fakes(client: LabelStudioClient) -> None:
    assert client.now().tzinfo is not None


def test_interfaces_are_stored_as_they_are(client: LabelStudioClient) -> None:
    for name in label_config.NAMES:
        made = client.create_project(title=next(_titles), label_config=label_config.read(name))
        assert client.project(made["id"])["label_config"] == label_config.read(name)


def test_project_is_found_by_its_description(client: LabelStudioClient) -> None:
    made = client.create_project(title=next(_titles), description=f"x {marker('t', 'ranking')}")
    assert [p["id"] for p in client.projects() if marker("t", "ranking") in p["description"]][-1] == made[
        "id"
    ]


def test_too_short_title_is_refused(client: LabelStudioClient) -> None:
    with pytest.raises(RejectedError, match="title"):
        client.create_project(title="ab")


def test_missing_project_is_not_found_rather_than_empty(client: LabelStudioClient) -> None:
    for ask in (client.project, client.task_ids, lambda p: list(client.tasks(p))):
        with pytest.raises(NotFoundError):
            ask(999_999)


def test_imported_tasks_come_back_in_order_with_their_ids(client: LabelStudioClient, project: int) -> None:
    ids = client.import_tasks(project, [task_data("x"), task_data("y"), task_data("z")])
    assert [task["id"] for task in client.tasks(project)] == ids == sorted(ids)
    assert client.task_ids(project) == set(ids)
    assert client.source_keys(project) == dict(zip("xyz", ids, strict=True))
    assert next(client.tasks(project))["data"] == task_data("x")


def test_one_task_without_its_column_refuses_the_whole_import(
    client: LabelStudioClient, project: int
) -> None:
    with pytest.raises(RejectedError) as refused:
        client.import_tasks(project, [task_data(), {"prompt": "secret words"}])
    assert "secret" not in str(refused.value)
    assert client.task_ids(project) == set()


def test_annotation_comes_with_its_task(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    made = client.create_annotation(task, ranking_result("a2", "a1", choice="close"), lead_time=4.5)
    (found,) = next(client.tasks(project))["annotations"]
    assert (found["id"], found["completed_by"], found["lead_time"]) == (made, client.whoami()["id"], 4.5)
    assert found["was_cancelled"] is False
    assert [region["value"] for region in found["result"]] == [
        {"ranker": {"ranking": ["a2", "a1"]}},
        {"choices": ["close"]},
    ]


def test_tasks_can_be_listed_without_annotations(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    client.create_annotation(task, ranking_result("a2", "a1"))
    assert "annotations" not in next(client.tasks(project, annotations=False))


def test_skip_is_a_cancelled_annotation(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    client.create_annotation(task, [], was_cancelled=True)
    assert next(client.tasks(project))["annotations"][0]["was_cancelled"] is True


def updated(client: LabelStudioClient, project: int) -> datetime:
    return datetime.fromisoformat(next(client.tasks(project))["updated_at"])


def test_every_change_of_an_annotation_moves_its_task(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    moments = [updated(client, project)]
    annotation = client.create_annotation(task, ranking_result("a2", "a1"))
    moments.append(updated(client, project))
    client.update_annotation(annotation, ranking_result("a1", "a2"))
    moments.append(updated(client, project))
    client.delete_annotation(annotation)
    moments.append(updated(client, project))
    assert moments == sorted(set(moments))
    assert next(client.tasks(project))["annotations"] == []


def test_edited_annotation_has_a_newer_time(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    annotation = client.create_annotation(task, ranking_result("a2", "a1"))
    before = next(client.tasks(project))["annotations"][0]["updated_at"]
    client.update_annotation(annotation, ranking_result("a1", "a2"))
    (after,) = next(client.tasks(project))["annotations"]
    assert (after["id"], after["updated_at"] > before) == (annotation, True)


def test_list_is_cut_by_time_of_change(client: LabelStudioClient, project: int) -> None:
    first, second = client.import_tasks(project, [task_data("x"), task_data("y")])
    newest = max(datetime.fromisoformat(t["updated_at"]) for t in client.tasks(project))
    assert list(client.tasks(project, updated_after=newest + timedelta(milliseconds=1))) == []
    time.sleep(0.01)
    client.create_annotation(second, ranking_result("a2", "a1"))
    assert [t["id"] for t in client.tasks(project, updated_after=newest)] == [second]
    everything = client.tasks(project, updated_after=datetime(2020, 1, 1, tzinfo=UTC))
    assert [t["id"] for t in everything] == [first, second]


def test_list_of_more_than_one_page_is_whole(
    client: LabelStudioClient, project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = client.import_tasks(project, [task_data(str(n)) for n in range(7)])
    monkeypatch.setattr("backend.label_studio.PAGE_SIZE", 3)
    listing = client.tasks(project)
    seen = [next(listing)["id"]]
    client.delete_task(ids[0])  # a page counted by position would now skip one
    assert seen + [task["id"] for task in listing] == ids


def test_deleted_task_is_gone(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    client.delete_task(task)
    assert client.task_ids(project) == set()
    with pytest.raises(NotFoundError):
        client.delete_task(task)


def test_prediction_of_all_ids_is_taken(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    prediction = ranking_prediction(["a2", "a1"], score=0.5, model_version="reward-t-1")
    client.create_predictions(project, [{"task": task, **prediction}])


def test_webhook_keeps_its_secret_header_and_actions(client: LabelStudioClient, project: int) -> None:
    made = client.create_webhook(project, HOOK, {"X-Webhook-Secret": "s"}, ["ANNOTATION_CREATED"])
    client.update_webhook(made["id"], HOOK, {"X-Webhook-Secret": "t"}, ["TASKS_DELETED"])
    (hook,) = client.webhooks(project)
    assert (hook["url"], hook["headers"], hook["actions"]) == (
        HOOK,
        {"X-Webhook-Secret": "t"},
        ["TASKS_DELETED"],
    )
    assert (hook["send_for_all_actions"], hook["is_active"]) == (False, True)
    client.delete_webhook(hook["id"])
    assert client.webhooks(project) == []


def test_task_data_are_replaced_whole_and_annotations_stay(client: LabelStudioClient, project: int) -> None:
    (task,) = client.import_tasks(project, [task_data()])
    client.create_annotation(task, ranking_result("a2", "a1"), lead_time=3.0)
    (before,) = client.tasks(project)
    client.update_task(task, {**task_data("other"), "disagreement": 67})
    (after,) = client.tasks(project)
    assert after["data"] == {**task_data("other"), "disagreement": 67}
    assert after["updated_at"] > before["updated_at"]
    assert _own(after["annotations"]) == _own(before["annotations"])


def _own(annotations: list[dict[str, object]]) -> list[list[object]]:
    names = ("id", "result", "updated_at", "was_cancelled")
    return [[annotation[name] for name in names] for annotation in annotations]


@pytest.mark.integration
def test_task_is_served_to_one_more_annotator_who_has_not_ranked_it(label_studio: LabelStudioServer) -> None:
    link = invitation(label_studio.url, label_studio.token)
    people = [sign_up(link, f"{name}@example.com", "a-long-test-password") for name in ("ann", "bob", "cleo")]
    with LabelStudioClient(label_studio.url, label_studio.token) as client:
        made = client.create_project(
            title=next(_titles), label_config=label_config.read("ranking"), maximum_annotations=2
        )
        (task,) = client.import_tasks(made["id"], [task_data()])
        for person in people[:2]:
            with LabelStudioClient(label_studio.url, person.token) as annotator:
                annotator.create_annotation(task, ranking_result("a1", "a2"), lead_time=9.0)

        def served(token: str) -> object:
            next_task = f"{label_studio.url}/api/projects/{made['id']}/next"
            answer = httpx.get(next_task, headers={"Authorization": f"Token {token}"}, timeout=30)
            return answer.json()["id"] if answer.status_code == 200 else None

        assert served(people[2].token) is None
        client.set_overlap(task, 3, finished=False)
        assert served(people[0].token) is None
        assert served(people[2].token) == task
        assert next(iter(client.tasks(made["id"])))["data"] == task_data()
        client.set_overlap(task, 2, finished=True)
        assert served(people[2].token) is None


def test_tab_keeps_its_columns(client: LabelStudioClient, project: int) -> None:
    assert client.tabs(project) == []
    client.create_tab(project, "Tasks", ["tasks:data.source_key"], widths={"tasks:data.prompt": 560})
    (tab,) = client.tabs(project)
    hidden = ["tasks:data.source_key"]
    assert tab["data"]["hiddenColumns"] == {"explore": hidden, "labeling": hidden}
    assert tab["data"]["columnsWidth"] == {"tasks:data.prompt": 560}


def test_tab_may_show_only_tasks_that_have_a_value(client: LabelStudioClient, project: int) -> None:
    client.create_tab(project, "Disagreement", [], filled="disagreement")
    (tab,) = client.tabs(project)
    (shown,) = tab["data"]["filters"]["items"]
    assert (shown["filter"], shown["operator"]) == ("filter:tasks:data.disagreement", "empty")


@pytest.mark.integration
def test_tab_of_a_value_holds_the_highest_first(label_studio: LabelStudioServer) -> None:
    with LabelStudioClient(label_studio.url, label_studio.token) as client:
        made = client.create_project(title=next(_titles), label_config=label_config.read("ranking"))
        tasks = client.import_tasks(made["id"], [task_data(f"k{n}") for n in range(4)])
        for task, value in zip(tasks, (8, None, 100, 67), strict=True):
            if value is not None:
                client.update_task(task, {**task_data(f"k{task}"), "disagreement": value})
        tab = client.create_tab(made["id"], "Disagreement", [], filled="disagreement")
        answer = httpx.get(
            f"{label_studio.url}/api/tasks",
            params={"view": tab["id"], "project": made["id"]},
            headers={"Authorization": f"Token {label_studio.token}"},
            timeout=30,
        )
        assert [task["id"] for task in answer.json()["tasks"]] == [tasks[2], tasks[3], tasks[0]]


def test_webhook_to_a_host_without_a_dot_is_refused(client: LabelStudioClient, project: int) -> None:
    with pytest.raises(RejectedError, match="valid URL"):
        client.create_webhook(project, "http://backend:9090/hooks", {}, ["TASKS_CREATED"])


def test_ml_backend_that_is_down_is_refused(client: LabelStudioClient, project: int) -> None:
    with pytest.raises(RejectedError, match="connect"):
        client.connect_ml_backend(project, BACKEND, title="RLHF")
    assert client.ml_backends(project) == []


@pytest.mark.integration
@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "192.168.0.1"])
def test_our_server_sends_webhooks_to_loopback_only(label_studio: LabelStudioServer, host: str) -> None:
    with LabelStudioClient(label_studio.url, label_studio.token) as client:
        made = client.create_project(title=next(_titles))
        with pytest.raises(UnauthorisedError, match="reserved network"):
            client.create_webhook(made["id"], f"http://{host}/hooks", {}, ["TASKS_CREATED"])


def next_task(label_studio: LabelStudioServer, project: int) -> int:
    """The task that the labeling page would open next; the SDK has no call for it."""
    answer = httpx.get(
        f"{label_studio.url}/api/projects/{project}/next",
        headers={"Authorization": f"Token {label_studio.token}"},
    )
    return int(answer.json()["id"])


@pytest.mark.integration
def test_lowest_score_of_the_projects_model_version_is_served_first(label_studio: LabelStudioServer) -> None:
    with LabelStudioClient(label_studio.url, label_studio.token) as client:
        xml = label_config.read("ranking")
        made = client.create_project(title=next(_titles), label_config=xml, sampling="Uncertainty sampling")
        tasks = client.import_tasks(made["id"], [task_data(str(n)) for n in range(5)])
        scores = dict(zip(tasks, (0.9, 0.5, 0.1, 0.7), strict=False))  # the last has none
        client.create_predictions(
            made["id"],
            [
                {"task": task, **ranking_prediction(["a1", "a2"], score=score, model_version="reward-t-1")}
                for task, score in scores.items()
            ],
        )
        client.update_project(made["id"], model_version="reward-t-1")
        served = []
        for _ in tasks:
            served.append(next_task(label_studio, made["id"]))
            client.create_annotation(served[-1], ranking_result("a1", "a2"))
    assert served == [tasks[n] for n in (2, 1, 3, 0, 4)]


@pytest.mark.integration
def test_personal_access_token_is_exchanged(label_studio: LabelStudioServer) -> None:
    with LabelStudioClient(label_studio.url, label_studio.token) as client:
        client.sdk.jwt_settings.update(
            api_tokens_enabled=True, legacy_api_tokens_enabled=True, api_token_ttl_days=30
        )
        token = client.sdk.tokens.create().token
        me = client.whoami()["id"]
    with LabelStudioClient(label_studio.url, token) as personal:
        assert personal.whoami()["id"] == me
    stranger = LabelStudioClient(label_studio.url, token[:-3] + "xyz")
    with stranger, pytest.raises(UnauthorisedError, match="personal access token"):
        stranger.whoami()

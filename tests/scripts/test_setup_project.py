"""Setting a workspace up, again and again, whatever happened in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import label_config
from backend.errors import LabelConfigError, RejectedError, UnauthorisedError, WrongVersionError
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from backend.tables import WorkspaceRow
from scripts.setup_project import HOOK_PATH, Setup, marker, set_up_workspace
from tests.fake_label_studio import TOKEN, FakeLabelStudio, ranking_result


class Place:
    """A fake Label Studio that reaches a backend, and that backend's settings."""

    def __init__(self, directory: Path) -> None:
        self.fake = FakeLabelStudio()
        self.settings = Settings(
            label_studio_url=self.fake.url,
            label_studio_api_key=TOKEN,
            data_dir=directory,
            password="a-password",
            webhook_secret="a-secret",
            rankings_per_task=2,
        )
        self.fake.reachable_backends.add(self.settings.backend_url)

    def set_up(self, name: str = "team", *, title: str = "", reset_config: bool = False) -> Setup:
        client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        return set_up_workspace(self.settings, name, title=title, reset_config=reset_config, client=client)

    def project(self, setup: Setup, kind: label_config.Name) -> dict[str, object]:
        return self.fake.project_rows[setup.projects[kind]]

    def row(self, name: str = "team") -> WorkspaceRow:
        store = Store(self.settings.store_url)
        with store.reading() as session:
            row = session.get_one(WorkspaceRow, name)
        store.close()
        return row


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_new_workspace_has_everything(place: Place) -> None:
    setup = place.set_up(title="客服组")
    assert setup.connected
    row = place.row()
    stored = (row.prompts_project, row.ranking_project, row.review_project, row.report_project)
    assert stored == tuple(setup.projects[kind] for kind in label_config.NAMES)
    ranking = place.project(setup, "ranking")
    assert ranking["title"] == "客服组 · 2 排序 Ranking"
    assert ranking["label_config"] == label_config.read("ranking")
    assert (ranking["show_collab_predictions"], ranking["maximum_annotations"]) == (False, 2)


def test_webhooks_are_ours_only_with_secret_and_explicit_actions(place: Place) -> None:
    place.set_up()
    hooks = list(place.fake.webhook_rows.values())
    assert len(hooks) == 3
    for hook in hooks:
        assert hook["url"] == place.settings.backend_url + HOOK_PATH
        assert hook["headers"] == {"X-Webhook-Secret": "a-secret"}
        assert hook["actions"]
        assert not hook["send_for_all_actions"]


def test_backend_that_moved_takes_its_connection_and_webhooks_along(place: Place) -> None:
    place.set_up()
    moved = "http://localhost:9191"
    place.fake.reachable_backends.add(moved)
    place.settings = replace(place.settings, backend_url=moved)
    setup = place.set_up()
    assert [row["url"] for row in place.fake.ml_rows.values()] == [moved]
    assert [hook["url"] for hook in place.fake.webhook_rows.values()] == [moved + HOOK_PATH] * 3
    assert setup.connected


def test_projects_are_made_so_that_the_newest_first_list_shows_them_in_order(place: Place) -> None:
    ids = list(place.set_up().projects.values())
    assert ids == sorted(ids, reverse=True)


def test_tables_hide_what_is_not_for_people_unless_the_team_made_its_own(place: Place) -> None:
    setup = place.set_up()
    hidden = {row["project"]: row["data"]["hiddenColumns"]["explore"] for row in place.fake.tab_rows.values()}
    assert set(hidden) == set(setup.projects.values())
    assert "tasks:data.source_key" in hidden[setup.projects["ranking"]]
    assert "tasks:data.prompt" not in hidden[setup.projects["ranking"]]
    place.set_up()
    assert len(place.fake.tab_rows) == len(hidden)


def test_second_time_changes_nothing(place: Place) -> None:
    first = place.set_up()
    before = (dict(place.fake.project_rows), dict(place.fake.webhook_rows), list(place.fake.ml_rows))
    again = place.set_up()
    assert again.notes == []
    assert again.projects == first.projects
    assert (dict(place.fake.project_rows), dict(place.fake.webhook_rows), list(place.fake.ml_rows)) == before


def test_lost_database_finds_the_projects_by_their_marker(place: Place, tmp_path: Path) -> None:
    first = place.set_up()
    for path in tmp_path.glob("backend.sqlite3*"):
        path.unlink()
    assert place.set_up().projects == first.projects


def test_marker_of_one_workspace_is_in_no_other_ones() -> None:
    names = ("demo", "demo-2", "a-demo", "2")
    marks = {marker(name, kind) for name in names for kind in label_config.NAMES}
    assert len(marks) == len(names) * len(label_config.NAMES)
    assert not [(one, other) for one in marks for other in marks if one != other and one in other]


def test_renamed_project_whose_marker_is_gone_is_still_ours(place: Place) -> None:
    first = place.set_up()
    place.project(first, "ranking").update(title="Our own name", description="")
    again = place.set_up()
    assert again.projects == first.projects
    assert place.project(again, "ranking")["title"] == "Our own name"
    assert marker("team", "ranking") in str(place.project(again, "ranking")["description"])


def test_deleted_project_is_made_again(place: Place) -> None:
    first = place.set_up()
    del place.fake.project_rows[first.projects["review"]]
    again = place.set_up()
    assert again.projects["review"] != first.projects["review"]
    assert place.row().review_project == again.projects["review"]


def test_two_workspaces_do_not_share(place: Place) -> None:
    ids = [*place.set_up("one").projects.values(), *place.set_up("one-b").projects.values()]
    assert len(set(ids)) == 8


def test_shown_predictions_and_a_changed_webhook_are_repaired(place: Place) -> None:
    setup = place.set_up()
    place.project(setup, "ranking")["show_collab_predictions"] = True
    next(iter(place.fake.webhook_rows.values()))["headers"] = {"X-Webhook-Secret": "old"}
    notes = " ".join(place.set_up().notes)
    assert "repaired show_collab_predictions of the ranking project" in notes
    assert "repaired the webhook" in notes
    assert all(h["headers"] == {"X-Webhook-Secret": "a-secret"} for h in place.fake.webhook_rows.values())


def test_reworded_interface_is_kept_unless_asked_otherwise(place: Place) -> None:
    setup = place.set_up()
    reworded = label_config.read("ranking").replace("问题 · Question", "我们的问题")
    place.project(setup, "ranking")["label_config"] = reworded
    assert "kept the ranking project's changed interface" in " ".join(place.set_up().notes)
    assert place.project(setup, "ranking")["label_config"] == reworded
    place.set_up(reset_config=True)
    assert place.project(setup, "ranking")["label_config"] == label_config.read("ranking")


def test_broken_interface_is_restored_with_the_reason(place: Place) -> None:
    setup = place.set_up()
    place.project(setup, "review")["label_config"] = "<View/>"
    notes = " ".join(place.set_up().notes)
    assert "restored the review project's interface" in notes
    assert '`<Choices name="verdict">` is missing' in notes
    assert place.project(setup, "review")["label_config"] == label_config.read("review")


def test_broken_interface_with_annotations_is_left_alone_and_explained(place: Place) -> None:
    setup = place.set_up()
    other = '<View><Text name="prompt" value="$prompt"/><Choices name="other" toName="prompt"/></View>'
    place.project(setup, "ranking")["label_config"] = other
    place.fake.annotate(
        place.fake.add_task(setup.projects["ranking"], {"prompt": "?"}), ranking_result("a", "b")
    )
    with pytest.raises(LabelConfigError, match="make another workspace"):
        place.set_up()
    assert place.project(setup, "ranking")["label_config"] == other


def test_backend_that_is_down_is_said_and_connected_the_next_time(place: Place) -> None:
    place.fake.reachable_backends.clear()
    setup = place.set_up()
    assert not setup.connected
    assert "NOT connected" in " ".join(setup.notes)
    assert len(place.fake.webhook_rows) == 3
    place.fake.reachable_backends.add(place.settings.backend_url)
    assert place.set_up().connected


@pytest.mark.parametrize("name", ["", "Team", "a b", "../x", "x" * 25, "-a", "组"])
def test_impossible_name_is_refused_before_anything_is_made(place: Place, name: str) -> None:
    with pytest.raises(RejectedError, match="workspace name"):
        place.set_up(name)
    assert place.fake.project_rows == {}


def test_too_long_title_is_refused(place: Place) -> None:
    with pytest.raises(RejectedError, match="29 characters"):
        place.set_up(title="x" * 29)


def test_wrong_token_or_version_makes_nothing(place: Place) -> None:
    place.fake.release = "1.15.0"
    with pytest.raises(WrongVersionError):
        place.set_up()
    place.fake.release = "1.23.2"
    place.fake.tokens.clear()
    with pytest.raises(UnauthorisedError):
        place.set_up()
    assert place.fake.project_rows == {}

"""Makes a workspace: its Label Studio projects, their interfaces, the ML backend connection and the webhooks.

`python -m scripts.setup_project NAME` can be run again at any time: it repairs what someone changed and says
so. Projects are found by their ids in our store, else by a marker in their description, so that neither a
lost database nor a renamed project makes twins.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import label_config
from backend import overlap
from backend.errors import BackendError, LabelConfigError, RejectedError
from backend.label_studio import LabelStudioClient
from backend.settings import Settings
from backend.store import Store
from backend.tables import WorkspaceRow

HOOK_PATH = "/hooks/label-studio"
SECRET_HEADER = "X-Webhook-Secret"  # noqa: S105 - the name of a header
ML_BACKEND_TITLE = "RLHF"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
_LONGEST_TITLE = 28  # Label Studio allows 50 characters with our suffix
_TITLES: dict[label_config.Name, str] = {
    "prompts": "1 题目 Prompts",
    "ranking": "2 排序 Ranking",
    "review": "3 盲评 Review",
    "report": "4 报告 Reports",
}
_DESCRIPTIONS: dict[label_config.Name, str] = {
    "prompts": "在这里导入题目（CSV 的列名为 prompt）。Import prompts here (CSV column: prompt).",
    "ranking": "把回答从好到差排序。Rank the answers from best to worst.",
    "review": "盲评：哪个回答更好？Blind review: which answer is better?",
    "report": "每一轮的结论。The verdict of each round.",
}
_ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
_ACTIONS: dict[label_config.Name, tuple[str, ...]] = {
    "prompts": ("TASKS_CREATED", "TASKS_DELETED"),
    "ranking": (*_ANNOTATED, "TASKS_DELETED"),
    "review": (*_ANNOTATED, "TASKS_DELETED"),
    "report": (),
}


@dataclass
class Setup:
    """What a set-up found and did."""

    projects: dict[label_config.Name, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Every change and every thing left alone on purpose, a sentence each."""
    connected: bool = False
    """Whether Label Studio reaches the backend; without it Start Training is missing, all else works."""


def set_up_workspace(
    settings: Settings,
    name: str,
    *,
    title: str = "",
    reset_config: bool = False,
    client: LabelStudioClient | None = None,
) -> Setup:
    """Create what is missing and repair what was changed.

    Raises:
        LabelStudioError: Label Studio cannot be used, or the name or title is not possible.
        LabelConfigError: an interface was changed and annotated in a way that cannot be undone.
    """
    _check_name(name, title or name)
    if client is None:
        with LabelStudioClient.of(settings) as own:
            return set_up_workspace(settings, name, title=title, reset_config=reset_config, client=own)
    client.check()
    work = _Work(settings, client, name, title or name, reset_config, Setup())
    _make_projects(work)
    for kind in label_config.NAMES:
        _table(work, kind)
    addresses = _connect(work)
    for kind in label_config.NAMES:
        _webhooks(work, kind, addresses)
    return work.setup


@dataclass(frozen=True)
class _Work:
    """What every step needs."""

    settings: Settings
    client: LabelStudioClient
    name: str
    title: str
    reset_config: bool
    setup: Setup

    @property
    def backend_url(self) -> str:
        return self.settings.backend_url.rstrip("/")

    def note(self, sentence: str) -> None:
        self.setup.notes.append(sentence)


def marker(name: str, kind: label_config.Name) -> str:
    """What finds a project again where our database is lost; it ends the description, which people read."""
    return f"RLHF 工作区 workspace: {name} · {kind}"


def _check_name(name: str, title: str) -> None:
    if not _NAME.fullmatch(name):
        raise RejectedError(f"`{name}` is no workspace name; needed are 1 to 24 of a-z, 0-9 and -")
    if not 1 <= len(title) <= _LONGEST_TITLE:
        raise RejectedError(f"the title has {len(title)} characters; needed are 1 to {_LONGEST_TITLE}")


def _make_projects(work: _Work) -> None:
    store = Store(work.settings.store_url)
    store.create_all()
    try:
        known = _known_projects(store, work.client, work.name)
        made = {kind: _project(work, store, kind, known.get(kind)) for kind in reversed(label_config.NAMES)}
        for kind in label_config.NAMES:  # Label Studio lists the newest project first
            work.setup.projects[kind] = made[kind]
        _store_workspace(store, work)
    finally:
        store.close()


def _known_projects(store: Store, client: LabelStudioClient, name: str) -> dict[label_config.Name, int]:
    """The projects that exist already, by our store or by their marker."""
    existing = client.projects()
    ids = {project["id"] for project in existing}
    with store.reading() as session:
        row = session.get(WorkspaceRow, name)
    found: dict[label_config.Name, int] = {}
    for kind in label_config.NAMES:
        stored = getattr(row, f"{kind}_project", None)
        marked = [p["id"] for p in existing if marker(name, kind) in (p.get("description") or "")]
        if stored is not None and stored in ids:
            found[kind] = stored
        elif marked:
            found[kind] = min(marked)
    return found


def _project(work: _Work, store: Store, kind: label_config.Name, known: int | None) -> int:
    wanted: dict[str, Any] = {
        "show_collab_predictions": False,
        "maximum_annotations": _overlap(work.settings, kind),
    }
    mark = marker(work.name, kind)
    description = f"{_DESCRIPTIONS[kind]} {mark}"
    if known is None:
        shown = f"{work.title} · {_TITLES[kind]}"
        wanted |= {"title": shown, "description": description, "label_config": label_config.read(kind)}
        if kind == "ranking":
            # lowest prediction score first, once scores of the project's `model_version` are there
            wanted["sampling"] = "Uncertainty sampling"
        made = work.client.create_project(**wanted)
        work.note(f"made the project `{shown}`")
        return int(made["id"])
    project = work.client.project(known)
    if mark not in (project.get("description") or ""):
        wanted["description"] = description
    if changed := {key: value for key, value in wanted.items() if project.get(key) != value}:
        if "maximum_annotations" in changed:
            _level_tasks(work, store, kind, known)
        work.client.update_project(known, **changed)
        work.note(f"repaired {', '.join(sorted(changed))} of the {kind} project")
    _repair_config(work, kind, known, project["label_config"])
    return known


def _level_tasks(work: _Work, store: Store, kind: label_config.Name, project: int) -> None:
    """Let every task ask for one person: where any asks for more, a change to two or more reaches only it."""
    if kind == "ranking":
        with store.session() as session:
            overlap.forget(session, work.name)
    for annotators in (2, 1):  # what is one already is no change
        work.client.update_project(project, maximum_annotations=annotators)


def _overlap(settings: Settings, kind: label_config.Name) -> int:
    return {"ranking": settings.rankings_per_task, "review": settings.reviews_per_comparison}.get(kind, 1)


def _repair_config(work: _Work, kind: label_config.Name, project: int, xml: str) -> None:
    ours = label_config.read(kind)
    if xml.strip() == ours:
        return
    faults = label_config.check(kind, xml)
    if not faults and not work.reset_config:
        work.note(f"kept the {kind} project's changed interface; --reset-config restores ours")
        return
    try:
        work.client.update_project(project, label_config=ours)
    except RejectedError as error:
        raise LabelConfigError(
            f"the interface of the {kind} project (id {project}) was changed: {'; '.join(faults)}."
            f" Label Studio does not let us restore it, because annotations depend on the change ({error})."
            " Remove those annotations and run this again, or make another workspace"
        ) from error
    work.note(f"restored the {kind} project's interface: {'; '.join(faults) or 'as asked'}")


def _table(work: _Work, kind: label_config.Name) -> None:
    """Show people's columns and hide ours; a tab that the team has made stays as it is."""
    project = work.setup.projects[kind]
    if not work.client.tabs(project):
        hidden, widths = label_config.hidden_columns(kind), label_config.column_widths(kind)
        work.client.create_tab(project, "任务 Tasks", hidden, widths=widths)


def _store_workspace(store: Store, work: _Work) -> None:
    with store.session() as session:
        row = session.get(WorkspaceRow, work.name)
        if row is None:
            row = WorkspaceRow(id=work.name, title=work.title)
            session.add(row)
        elif work.title != work.name:
            row.title = work.title
        for kind, project in work.setup.projects.items():
            setattr(row, f"{kind}_project", project)


def _connect(work: _Work) -> set[str]:
    """Connect the ML backend to the ranking project, once, also after the backend has moved.

    Returns: its address and those it had before.
    """
    project, settings = work.setup.projects["ranking"], work.settings
    mine = [
        known
        for known in work.client.ml_backends(project)
        if known["url"].rstrip("/") == work.backend_url or known["title"] == ML_BACKEND_TITLE
    ]
    try:
        work.client.connect_ml_backend(
            project,
            work.backend_url,
            title=ML_BACKEND_TITLE,
            username=settings.username,
            password=settings.password,
            known=mine[0]["id"] if mine else None,
        )
    except RejectedError as error:
        work.note(
            f"NOT connected: Label Studio does not reach the backend at {work.backend_url};"
            f" start it and run this again ({error})"
        )
    else:
        work.setup.connected = True
        if not mine:
            work.note("connected the ML backend to the ranking project")
    for twin in mine[1:]:
        work.client.delete_ml_backend(twin["id"])
    return {work.backend_url, *(known["url"].rstrip("/") for known in mine)}


def _webhooks(work: _Work, kind: label_config.Name, addresses: set[str]) -> None:
    """Leave exactly one webhook; the one that Label Studio makes by itself carries no secret."""
    project, client, secret = work.setup.projects[kind], work.client, work.settings.webhook_secret
    wanted: dict[str, Any] = {
        "url": work.backend_url + HOOK_PATH,
        "headers": {SECRET_HEADER: secret} if secret else {},
        "actions": list(_ACTIONS[kind]),
    }
    mine: list[dict[str, Any]] = []
    for hook in client.webhooks(project):
        if hook["url"].endswith(HOOK_PATH) and not mine and wanted["actions"]:
            mine.append(hook)
        elif any(hook["url"].startswith(f"{address}/") for address in addresses):
            client.delete_webhook(hook["id"])
    if not wanted["actions"]:
        return
    if not mine:
        client.create_webhook(project, **wanted)
        work.note(f"made the webhook of the {kind} project")
    elif _differs(mine[0], wanted):
        client.update_webhook(mine[0]["id"], **wanted)
        work.note(f"repaired the webhook of the {kind} project")


def _differs(hook: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return (
        hook["url"] != wanted["url"]
        or sorted(hook.get("actions") or ()) != sorted(wanted["actions"])
        or hook.get("headers") != wanted["headers"]
        or hook.get("send_for_all_actions", False)
        or not hook.get("is_active", True)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Set a workspace up, and print what was done and where its projects are."""
    parser = argparse.ArgumentParser(prog="python -m scripts.setup_project", description=__doc__)
    parser.add_argument("name", help="short name of the team: a-z, 0-9 and -")
    parser.add_argument("--title", default="", help="what people see; the name if not given")
    parser.add_argument(
        "--reset-config", action="store_true", help="restore interfaces that the team reworded"
    )
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        setup = set_up_workspace(
            settings, options.name, title=options.title, reset_config=options.reset_config
        )
    except BackendError as error:
        print(f"not set up: {error}", file=sys.stderr)
        return 2
    for note in setup.notes or ["nothing to do: everything is in place"]:
        print(note)
    for kind, project in setup.projects.items():
        print(f"  {kind:8} {settings.label_studio_url}/projects/{project}")
    return 0 if setup.connected else 3


if __name__ == "__main__":
    sys.exit(main())

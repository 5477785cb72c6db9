"""Applies advice: changes the workspace's settings, starts what uses them, writes down why.

The advice is looked for again in the transaction that acts on it, so that of two clicks one does something.
What must be changed in Label Studio comes before, and may be done again where that was interrupted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Session

from backend import registry, store
from backend.adjudication import send_on
from backend.advice import Advice, starts_of
from backend.advice_actions import changed_words
from backend.annotations import ranking_source_key, repeat_source_key
from backend.errors import ConflictError
from backend.findings import advice_for, in_force, newest_judged, policy_of, unranked_prompts
from backend.inputs import collecting_round, queue_generate, queue_ppo, queue_reward, settings_of
from backend.label_studio import LabelStudioClient
from backend.policy import BUSY_ROUNDS
from backend.settings import Settings
from backend.status import View
from backend.store import Store
from backend.tables import ActionRow, PromptRow, ResponseRow, RoundRow
from trainers.spread import ALIKE

_Started = tuple[str | None, str | None]
"""Round and run."""


@dataclass(frozen=True)
class Applied(View):
    """What applying a piece of advice did."""

    advice: str
    zh: str
    en: str
    run_id: str | None


class Actions:
    """Applies the advice of one store's workspaces."""

    def __init__(self, settings: Settings, opened: Store, client: LabelStudioClient) -> None:
        self.settings = settings
        self.store = opened
        self.client = client

    def apply(self, workspace_id: str, advice_id: str) -> Applied:
        """Do what a piece of advice says.

        Raises:
            ConflictError: it is not given now, is people's work, or a training is in its way.
            LabelStudioError: Label Studio did not answer; nothing of ours has changed.
        """
        with self.store.reading() as session:
            found = self._given(session, workspace_id, advice_id)
            starts = starts_of(found.id)
            renewed = _to_renew(session, workspace_id, found) if starts == "generate" else set()
        if starts == "adjudication":
            send_on(self.store, self.client, self.settings, workspace_id)
        if starts == "generate":
            renewed = self._remove_unranked_tasks(workspace_id, renewed)
        with self.store.session() as session:
            found = self._given(session, workspace_id, advice_id)
            return self._act(session, workspace_id, found, renewed)

    def revert(self, workspace_id: str, advice_id: str) -> Applied:
        """Take back what this advice changed last; what it started is left alone.

        Raises: ConflictError: it changed nothing that is in force, or something else has changed it since.
        """
        with self.store.session() as session:
            workspace = store.workspace(session, workspace_id)
            before = settings_of(self.settings, workspace)
            rows = [row for row in in_force(store.actions(session, workspace_id)) if row.changed]
            applied = next((row for row in reversed(rows) if row.advice == advice_id), None)
            if applied is None:
                able = ", ".join(f"`{name}`" for name in dict.fromkeys(row.advice for row in rows)) or "none"
                raise ConflictError(
                    f"no change by the advice `{advice_id}` is in force; what can be taken back: {able}"
                )
            for name, (_, new) in applied.changed.items():
                if (now := getattr(before, name)) != new:
                    raise ConflictError(f"`{name}` is {now} now, not {new}: take back what changed it since")
            changed = {name: (new, old) for name, (old, new) in applied.changed.items()}
            workspace.settings = {**workspace.settings, **{name: old for name, (_, old) in changed.items()}}
            zh, en = changed_words(changed)
            session.add(
                ActionRow(
                    workspace=workspace_id, advice=advice_id, zh=f"撤回：{applied.zh}",
                    en=f"Taken back: {applied.en}", reverts=applied.id,
                    changed={name: list(values) for name, values in changed.items()},
                )
            )  # fmt: skip
            return Applied(advice_id, f"{zh}。", f"{en}.", None)

    def _given(self, session: Session, workspace_id: str, advice_id: str) -> Advice:
        workspace = store.workspace(session, workspace_id)
        current = store.current_round(session, workspace_id)
        given = advice_for(session, self.settings, workspace, current)
        found = next((advice for advice in given if advice.id == advice_id), None)
        if found is not None and found.applies:
            return found
        able = ", ".join(f"`{advice.id}`" for advice in given if advice.applies) or "none"
        reason = "is not given now" if found is None else "is for people to follow"
        raise ConflictError(f"the advice `{advice_id}` {reason}; what can be applied: {able}")

    def _act(self, session: Session, workspace_id: str, found: Advice, renewed: set[str]) -> Applied:
        workspace = store.workspace(session, workspace_id)
        before = settings_of(self.settings, workspace)
        changed = {name: (getattr(before, name), value) for name, value in found.changes.items()}
        workspace.settings = {**workspace.settings, **found.changes}
        settings_of(self.settings, workspace)  # refuses what is out of range
        starts = starts_of(found.id)
        round_id: str | None = None
        run_id: str | None = None
        if starts == "promotion":
            self._promote(session, workspace_id, found)
        elif starts == "ppo":
            round_id, run_id = self._ppo_again(session, workspace_id)
        elif starts == "generate":
            round_id, run_id = self._generate_again(session, workspace_id, renewed)
        elif starts == "training":
            round_id, run_id = self._train_again(session, workspace_id)
        session.add(
            ActionRow(
                workspace=workspace_id, advice=found.id, zh=found.zh, en=found.en,
                changed={name: list(values) for name, values in changed.items()},
                round_id=round_id, run_id=run_id,
            )
        )  # fmt: skip
        if starts == "ppo" and run_id is None:
            zh, en = changed_words(changed)
            return Applied(found.id, f"{zh}。从下一次 PPO 起生效。", f"{en}. PPO uses it next time.", None)
        return Applied(found.id, found.does_zh, found.does_en, run_id)

    def _promote(self, session: Session, workspace_id: str, found: Advice) -> None:
        judged = newest_judged(session, store.current_round(session, workspace_id))
        policy = policy_of(session, judged.id) if judged is not None else None
        if policy is None:
            raise ConflictError(f"no policy of `{workspace_id}` was judged; finish a review first")
        registry.resolve(session, workspace_id, policy.id, base_model=self.settings.base_model)
        registry.promote(session, workspace_id, policy.id, found.en)

    def _ppo_again(self, session: Session, workspace_id: str) -> _Started:
        """PPO with the reward model that is there, in the next round if this one is over.

        None while a review is open, which must not be ended by it, or the gate is not passed.
        """
        current = _idle_round(session, workspace_id)
        if current is None or current.state in ("reviewing", "gated"):
            return None, None
        queued = queue_ppo(session, self.settings, collecting_round(session, workspace_id), asked=True)
        return queued.round.id, queued.run.id

    def _train_again(self, session: Session, workspace_id: str) -> _Started:
        """The reward model of the rankings that count now."""
        _idle_round(session, workspace_id)
        queued = queue_reward(session, self.settings, workspace_id, asked=True)
        return queued.round.id, queued.run.id

    def _generate_again(self, session: Session, workspace_id: str, renewed: Collection[str]) -> _Started:
        """New candidates for prompts whose tasks are gone from Label Studio."""
        for prompt in store.prompts(session, workspace_id, "published", "flagged"):
            if prompt.prompt_id in renewed:
                prompt.state, prompt.ranking_task, prompt.likeness = "new", None, None
        session.execute(
            delete(ResponseRow).where(
                ResponseRow.workspace == workspace_id, ResponseRow.prompt_id.in_(renewed)
            )
        )
        queued = queue_generate(session, self.settings, workspace_id, again=True)
        return (queued.round.id, queued.run.id) if queued is not None else (None, None)

    def _remove_unranked_tasks(self, workspace_id: str, renewed: set[str]) -> set[str]:
        """Take the tasks of prompts away that nobody has touched in the meantime.

        Returns: the prompts that have no task any more. Raises: ConflictError: there is none.
        """
        with self.store.reading() as session:
            project = store.workspace(session, workspace_id).ranking_project
            prompts = [row for row in store.prompts(session, workspace_id) if row.prompt_id in renewed]
        owners = {key: row.prompt_id for row in prompts for key in _source_keys(row)}
        tasks: dict[str, list[int]] = defaultdict(list)
        touched: set[str] = set()
        for task in self.client.tasks(project):
            if (owner := owners.get(task["data"].get("source_key"))) is not None:
                tasks[owner].append(task["id"])
                touched |= {owner} if task["annotations"] else set()
        free = renewed - touched
        if not free:
            raise ConflictError(
                "every prompt whose candidates are alike has been ranked, and rankings stay;"
                " import new prompts"
            )
        for task_id in (task_id for owner in free for task_id in tasks[owner]):
            self.client.delete_task(task_id)
        return free


def _idle_round(session: Session, workspace_id: str) -> RoundRow | None:
    """The current round. Raises: ConflictError: it has a training process to run."""
    current = store.current_round(session, workspace_id)
    if current is not None and current.state in BUSY_ROUNDS:
        raise ConflictError(
            f"round `{current.id}` is {current.state}; wait until its training ends, or cancel it"
        )
    return current


def _to_renew(session: Session, workspace_id: str, found: Advice) -> set[str]:
    """Prompts without usable candidates; with more spread also those with variants that nobody ranked."""
    flagged = {row.prompt_id for row in store.prompts(session, workspace_id, "flagged")}
    if found.action != "more_spread":
        return flagged
    unranked = unranked_prompts(workspace_id).where(PromptRow.likeness > ALIKE)
    return flagged | set(session.scalars(unranked))


def _source_keys(row: PromptRow) -> tuple[str, str]:
    place = (row.workspace, row.round, row.prompt_id)
    return ranking_source_key(*place), repeat_source_key(*place)

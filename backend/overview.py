"""Reads a workspace's state and status from its rows.

`read_state` is what `backend.policy` decides on, `workspace_status` what people see. Knows nothing of Label
Studio, processes or DBOS; needs no running server.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import store
from backend.exclusions import annotators, counting, exclusions
from backend.failures import round_words, words
from backend.findings import action_views, advice_for, newest_judged, policy_of
from backend.inputs import settings_of
from backend.journey import five_steps, next_words
from backend.lineage import dependences
from backend.policy import Outcome, RewardRun, WorkspaceState, rankings_threshold, tasks_left
from backend.prompt_rows import MAX_PROBLEM_TASKS, problem
from backend.rounds import pending_comparisons
from backend.settings import Settings
from backend.status import (
    AdviceView,
    Counts,
    ModelView,
    RoundView,
    RunView,
    WorkspaceStatus,
)
from backend.tables import JudgementRow, RankingRow, ResponseRow, RoundRow, RunRow


def read_state(
    session: Session, settings: Settings, workspace_id: str, *, training_requested: bool = False
) -> WorkspaceState:
    """All that decides what starts next in a workspace."""
    workspace = store.workspace(session, workspace_id)
    effective = settings_of(settings, workspace)
    prompts = store.prompt_counts(session, workspace_id)
    current = store.current_round(session, workspace_id)
    runs = store.runs(session, workspace_id)
    judged, comparisons = (0, 0) if current is None else judged_of(session, effective, current)
    published = prompts.get("published", 0)
    return WorkspaceState(
        prompts_new=prompts.get("new", 0),
        generating=any(run.kind == "generate" and run.state in ("queued", "running") for run in runs),
        prompts_published=published,
        rankings=len(store.active_rankings(session, workspace_id)),
        rankings_new=store.new_rankings(session, workspace_id),
        rankings_open=_rankings_open(session, workspace_id, published, effective.rankings_per_task),
        train_after_rankings=effective.train_after_rankings,
        training_requested=training_requested,
        round_state=current.state if current else None,
        reward=_newest_reward(runs),
        comparisons=comparisons,
        comparisons_judged=judged,
        conclude_asked=current is not None and current.conclude_asked,
        decision_open=current is not None and _decision_open(session, current),
    )


def _rankings_open(session: Session, workspace_id: str, published: int, per_task: int) -> int:
    """How many more rankings Label Studio will ask for, also in place of those of excluded people."""
    made = (
        select(func.count())
        .where(*counting(workspace_id), RankingRow.state == "active")
        .group_by(RankingRow.prompt_id)
    )
    return max(0, published * per_task - sum(min(number, per_task) for number in session.scalars(made)))


def _decision_open(session: Session, current: RoundRow) -> bool:
    """Also while the next round has only its candidates."""
    judged = newest_judged(session, current) if current.state in ("decided", "collecting") else None
    better = judged is not None and (judged.verdict or {}).get("verdict") == "better"
    policy = policy_of(session, judged.id) if judged is not None and better else None
    return policy is not None and policy.state == "published"


def judged_of(session: Session, settings: Settings, current: RoundRow) -> tuple[int, int]:
    """How many comparisons have as many judgements (or skips) as wanted, and how many there are."""
    comparisons = len(store.comparisons(session, current.id))
    return comparisons - len(pending_comparisons(session, settings, current)), comparisons


def workspace_status(
    session: Session, settings: Settings, workspace_id: str, *, label_studio_error: str = ""
) -> WorkspaceStatus:
    """Raises: NotFoundInStoreError: no such workspace."""
    workspace = store.workspace(session, workspace_id)
    state = read_state(session, settings, workspace_id)
    current = store.current_round(session, workspace_id)
    runs = tuple(_run_view(run) for run in store.runs(session, workspace_id))
    rounds = tuple(_round_view(session, settings, row) for row in store.rounds(session, workspace_id))
    counts = _counts(session, workspace_id, state)
    round_view = rounds[-1] if rounds else None
    steps = five_steps(state, counts, round_view, runs, auto_ppo=settings_of(settings, workspace).auto_ppo)
    advice = tuple(
        AdviceView(found.id, found.zh, found.en, found.action, found.applies, found.does_zh, found.does_en)
        for found in advice_for(session, settings, workspace, current)
    )
    next_zh, next_en = next_words(steps, advice)
    return WorkspaceStatus(
        workspace=workspace.id,
        title=workspace.title,
        prompts_project=workspace.prompts_project,
        ranking_project=workspace.ranking_project,
        review_project=workspace.review_project,
        serving_policy=workspace.serving_policy,
        counts=counts,
        steps=steps,
        next_zh=next_zh,
        next_en=next_en,
        round=round_view,
        rounds=rounds,
        runs=runs,
        models=tuple(_model_views(session, workspace_id, workspace.serving_policy)),
        advice=advice,
        problems=(*workspace.problems, *_unreadable(session, workspace_id)),
        actions=action_views(store.actions(session, workspace_id)),
        label_studio_error=label_studio_error,
    )


_UNREADABLE = (
    "{n} 份标注无法读取，不会计入：请在这些任务上重新提交；如果标注界面被改过，先运行"
    " python -m scripts.setup_project %s 恢复",
    "{n} annotations cannot be read and do not count: submit them again; if someone changed the labeling"
    " interface, `python -m scripts.setup_project %s` restores it first",
)


def _unreadable(session: Session, workspace_id: str) -> list[dict[str, Any]]:
    """Annotations of both projects that say nothing we understand: nobody's work goes without a word."""
    tasks: list[int] = []
    for row in (RankingRow, JudgementRow):
        malformed = select(row.task).where(row.workspace == workspace_id, row.state == "malformed")
        tasks += session.scalars(malformed.order_by(row.task))
    zh, en = (sentence % workspace_id for sentence in _UNREADABLE)
    return [problem("unreadable", (zh, en), len(tasks), tasks[:MAX_PROBLEM_TASKS])] if tasks else []


def _newest_reward(runs: Any) -> RewardRun | None:
    newest = next((run for run in reversed(runs) if run.kind == "reward"), None)
    if newest is None:
        return None
    result = newest.result or {}
    outcome = cast("Outcome | None", result.get("outcome"))
    return RewardRun(newest.state, outcome, int(result.get("rankings_needed") or 0))


def _counts(session: Session, workspace_id: str, state: WorkspaceState) -> Counts:
    prompts = store.prompt_counts(session, workspace_id)
    responses = select(func.count()).where(ResponseRow.workspace == workspace_id)
    malformed = select(func.count()).where(
        RankingRow.workspace == workspace_id, RankingRow.state == "malformed"
    )
    judgements = select(func.count()).where(
        JudgementRow.workspace == workspace_id, JudgementRow.state == "active"
    )
    excluded = {row.annotator for row in exclusions(session, workspace_id)}
    threshold = rankings_threshold(state)
    return Counts(
        prompts=sum(number for name, number in prompts.items() if name != "deleted"),
        prompts_published=prompts.get("published", 0),
        prompts_flagged=prompts.get("flagged", 0),
        responses=session.scalars(responses).one(),
        rankings=state.rankings,
        rankings_new=state.rankings_new,
        rankings_needed=max(0, threshold - state.rankings_new) if threshold is not None else 0,
        annotators=len(annotators(session, workspace_id).keys() - excluded),
        malformed=session.scalars(malformed).one(),
        comparisons=state.comparisons,
        judgements=session.scalars(judgements).one(),
        tasks_left=tasks_left(state),
    )


def _run_view(run: RunRow) -> RunView:
    return RunView(
        id=run.id, kind=run.kind, state=run.state, round_id=run.round_id, attempts=run.attempts,
        progress_done=run.progress_done, progress_total=run.progress_total, progress_what=run.progress_what,
        result=run.result, error=run.error, error_zh=words(run.failure, run.error)[0],
        created=run.created, started=run.started, finished=run.finished,
    )  # fmt: skip


def _round_view(session: Session, settings: Settings, current: RoundRow) -> RoundView:
    effective = settings_of(settings, store.workspace(session, current.workspace))
    judged, comparisons = judged_of(session, effective, current)
    reason_zh, reason_en = round_words(current.state, current.failure, current.reason)
    return RoundView(
        id=current.id, number=current.number, state=current.state, verdict=current.verdict,
        comparisons=comparisons, judged=judged, reason_zh=reason_zh, reason_en=reason_en,
        created=current.created, finished=current.finished,
    )  # fmt: skip


def _model_views(session: Session, workspace_id: str, serving: str) -> list[ModelView]:
    dependent = dependences(session, workspace_id)
    return [
        ModelView(
            id=model.id, kind=model.kind, round_id=model.round_id, run_id=model.run_id, parent=model.parent,
            state=model.state, serving=model.id == serving, metrics=model.metrics, created=model.created,
            rankings=dependent[model.id].rankings, removed=dependent[model.id].removed,
        )
        for model in store.models(session, workspace_id)
    ]  # fmt: skip

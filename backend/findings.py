"""What a workspace's rows say was found: results of the stages, the round that counts, what follows.

Reads rows and measures; `backend.advice` turns the measurements into sentences. Calls nothing outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from backend import people, store
from backend.advice import Advice, advise, starts_of
from backend.advice_actions import changed_words
from backend.advice_triggers import NAMED
from backend.data_report import named_prompts
from backend.inputs import ranking_record, settings_of
from backend.lineage import Dependence, dependences, newest_clean
from backend.measurements import Measurements, Removed
from backend.ranking_queue import aim_of_result, next_tasks, prompts_to_name
from backend.settings import Settings
from backend.status import ActionView
from backend.tables import (
    ActionRow,
    ModelRow,
    PromptRow,
    RankingRow,
    RoundRow,
    RunRow,
    WorkspaceRow,
)
from trainers.acquisition import Aim
from trainers.agreement import prompt_agreements, self_consistency
from trainers.spread import ALIKE


def policy_of(session: Session, round_id: str) -> ModelRow | None:
    """The newest policy that a round made."""
    query = select(ModelRow).where(ModelRow.round_id == round_id, ModelRow.kind == "policy")
    return session.scalars(query.order_by(ModelRow.created.desc()).limit(1)).first()


def newest_judged(session: Session, current: RoundRow | None) -> RoundRow | None:
    """The round whose verdict counts: the one before, until the current round has a policy of its own."""
    if current is None or current.verdict or policy_of(session, current.id):
        return current
    decided = [row for row in store.rounds(session, current.workspace) if row.verdict]
    return decided[-1] if decided else current


def results_of(session: Session, workspace_id: str, round_id: str) -> dict[str, dict[str, Any]]:
    """The newest result of each stage in a round.

    Of candidates, which may be older, that of the workspace; of the reward model, if the round trained none,
    that of the one that PPO used.
    """
    runs = [run for run in store.runs(session, workspace_id) if run.result is not None]
    results: dict[str, dict[str, Any]] = {
        run.kind: run.result or {} for run in runs if run.round_id == round_id or run.kind == "generate"
    }
    if "reward" not in results and (used := _reward_run_of_ppo(session, runs, round_id)) is not None:
        results["reward"] = used.result or {}
    return results


def consistency_of(session: Session, workspace_id: str, rankings: Sequence[RankingRow]) -> dict[str, Any]:
    """How far people agree with themselves; empty if nothing was served twice."""
    repeated = store.repeated_rankings(session, workspace_id)
    if not repeated:
        return {}
    return asdict(self_consistency(map(ranking_record, rankings), map(ranking_record, repeated)))


def advice_for(
    session: Session, settings: Settings, workspace: WorkspaceRow, current: RoundRow | None
) -> list[Advice]:
    """What to do next in a workspace; what was applied since the newest result is not said again.

    Nor is what would start the same once more.
    """
    newest = _newest_result(session, workspace.id)
    recent = [row for row in in_force(store.actions(session, workspace.id)) if row.at > newest]
    applied = {row.advice for row in recent}
    started = {starts_of(row.advice) for row in recent if row.run_id is not None}
    return [
        found
        for found in advise(measure(session, settings, workspace, current))
        if found.id not in applied and not (found.applies and starts_of(found.id) in started)
    ]


def _newest_result(session: Session, workspace_id: str) -> float:
    """When the newest run or review ended."""
    ended = [run.finished for run in store.runs(session, workspace_id) if run.result is not None]
    ended += [row.finished for row in store.rounds(session, workspace_id) if row.verdict is not None]
    return max((at for at in ended if at is not None), default=0.0)


def in_force(rows: Sequence[ActionRow]) -> list[ActionRow]:
    """Advice that was applied and not taken back."""
    taken_back = {row.reverts for row in rows}
    return [row for row in rows if row.reverts is None and row.id not in taken_back]


def action_views(rows: Sequence[ActionRow]) -> tuple[ActionView, ...]:
    """Advice that was applied, as people read it."""
    changes = {row.id for row in in_force(rows) if row.changed}
    return tuple(
        ActionView(
            row.advice, row.zh, row.en, *changed_words(row.changed), row.round_id, row.run_id, row.at,
            reverts=row.reverts is not None, can_revert=row.id in changes,
        )
        for row in rows
    )  # fmt: skip


def measure(
    session: Session, settings: Settings, workspace: WorkspaceRow, current: RoundRow | None
) -> Measurements:
    """Everything that advice is given on, as it is now."""
    judged = newest_judged(session, current)
    results: dict[str, dict[str, Any]] = {}
    for row in (judged, current):
        results |= results_of(session, workspace.id, row.id) if row is not None else {}
    rankings = store.active_rankings(session, workspace.id)
    reward = results.get("reward", {})
    policy = policy_of(session, judged.id) if judged else None
    counts = store.prompt_counts(session, workspace.id)
    variants, compared = store.prompts_alike(session, workspace.id, ALIKE)
    effective = settings_of(settings, workspace)
    contested = _contested(reward, rankings)
    rank_next, rank_aim = _rank_next(session, workspace.id, reward, effective.gate_accuracy)
    named = named_prompts(reward) | {*contested, *(rank_next or ())[:NAMED]}
    return Measurements(
        settings=effective,
        prompts=sum(number for state, number in counts.items() if state != "deleted"),
        flagged=counts.get("flagged", 0),
        compared=compared,
        variants=variants,
        unranked=session.scalars(
            select(func.count()).select_from(unranked_prompts(workspace.id).subquery())
        ).one(),
        rankings=len(rankings),
        suspicious=sum(ranking.suspicious for ranking in rankings),
        generate=results.get("generate", {}),
        reward=reward,
        ppo=results.get("ppo", {}),
        compare=results.get("compare", {}),
        verdict=(judged.verdict if judged else None) or {},
        promoted=policy is not None and policy.id == workspace.serving_policy,
        consistency=consistency_of(session, workspace.id, rankings),
        contested=contested,
        rank_next=rank_next,
        rank_aim=rank_aim,
        removed=_removed(session, workspace),
        people=people.names(session),
        prompts_named=store.prompt_texts(session, workspace.id, named),
    )


def _reward_run_of_ppo(session: Session, runs: Sequence[RunRow], round_id: str) -> RunRow | None:
    ppo = next((run for run in reversed(runs) if run.kind == "ppo" and run.round_id == round_id), None)
    used = (ppo.config.get("lineage") or {}).get("reward_model") if ppo is not None else None
    model = session.get(ModelRow, used) if used else None
    return next((run for run in runs if model is not None and run.id == model.run_id), None)


def _contested(reward: dict[str, Any], rankings: Sequence[RankingRow]) -> tuple[str, ...]:
    if not (reward.get("team") or {}).get("contested_prompts"):
        return ()  # the rows are many, and this is asked every few seconds
    found = [own.prompt_id for own in prompt_agreements(map(ranking_record, rankings)) if own.contested]
    return tuple(found[:NAMED])


def _rank_next(
    session: Session, workspace_id: str, reward: Mapping[str, Any], gate_accuracy: float
) -> tuple[tuple[str, ...] | None, Aim]:
    """Which prompts would help a reward model through the gate that it did not pass, and what for."""
    aim = aim_of_result(reward, gate_accuracy)
    if reward.get("outcome") not in ("not_enough_evidence", "failed"):
        return None, aim
    return tuple(prompts_to_name(next_tasks(session, workspace_id, aim), aim)), aim


def _removed(session: Session, workspace: WorkspaceRow) -> Removed:
    """What the models in use depend on that does not count any more."""
    dependent = dependences(session, workspace.id)
    rewards = [model.id for model in store.models(session, workspace.id) if model.kind == "reward"]
    reward = dependent[rewards[-1]] if rewards else Dependence()
    serving = dependent.get(workspace.serving_policy, Dependence())
    return Removed(
        reward=reward.removed,
        of_reward=reward.rankings,
        serving=serving.removed,
        of_serving=serving.rankings,
        clean=newest_clean(session, workspace.serving_policy, dependent),
    )


def unranked_prompts(workspace_id: str) -> Select[str]:
    """Ids of the prompts whose tasks nobody has annotated, in the order of import."""
    touched = select(RankingRow.prompt_id).where(
        RankingRow.workspace == workspace_id, RankingRow.state != "deleted"
    )
    published = PromptRow.workspace == workspace_id, PromptRow.state == "published"
    return (
        select(PromptRow.prompt_id)
        .where(*published, PromptRow.prompt_id.not_in(touched))
        .order_by(PromptRow.id)
    )

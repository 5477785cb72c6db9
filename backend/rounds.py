"""How a round ends: verdict, report, promotion, failure. Rows in, rows out; each may run again.

Knows neither DBOS nor Label Studio: `backend.workflow` calls it in its steps.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import people, registry, store
from backend.data_report import Data, data_rows, named_prompts
from backend.failures import Failure, round_words
from backend.findings import action_views, advice_for, consistency_of, policy_of, results_of
from backend.inputs import candidates_records, ranking_record, settings_of
from backend.lineage import Dependence, dependences
from backend.report import Example, Report
from backend.settings import Settings
from backend.store import Store
from backend.tables import ComparisonRow, JudgementRow, ModelRow, PromptRow, RoundRow
from backend.verdict import judge_round, review_results, tally_of
from trainers.agreement import measure_agreement
from trainers.leaderboard import Match, Standing, rank_versions
from trainers.spread import Spread, measure_spread


class Rounds:
    """The rounds of one store."""

    def __init__(self, settings: Settings, opened: Store) -> None:
        self.settings = settings
        self.store = opened

    def reach_verdict(self, round_id: str) -> str:
        """Judge the round by the judgements that are active now. Returns: the verdict in one word."""
        with self.store.session() as session:
            current = store.round_by_id(session, round_id)
            settings = settings_of(self.settings, store.workspace(session, current.workspace))
            current.verdict = judge_round(
                store.comparisons(session, round_id),
                store.active_judgements(session, round_id),
                pending=pending_comparisons(session, settings, current),
            )
            return str(current.verdict["verdict"])

    def report(self, round_id: str) -> tuple[str, Report]:
        """Workspace and report of a round that has its verdict."""
        with self.store.reading() as session:
            current = store.round_by_id(session, round_id)
            return current.workspace, build_report(session, self.settings, current)

    def decide(self, round_id: str) -> None:
        """End the round, and let its policy serve if it is better and the settings say so."""
        with self.store.session() as session:
            current = store.round_by_id(session, round_id)
            if current.state != "reviewing":
                return
            current.state, current.finished = "decided", time.time()
            settings = settings_of(self.settings, store.workspace(session, current.workspace))
            better = (current.verdict or {}).get("verdict") == "better"
            policy = policy_of(session, round_id)
            if better and settings.auto_promote == "better" and policy is not None:
                registry.promote(session, current.workspace, policy.id, "better in the blind review")

    def fail(self, round_id: str, failure: Failure) -> None:
        """End the round with a reason; more rankings or Start Training take it up again."""
        with self.store.session() as session:
            current = store.round_by_id(session, round_id)
            if current.state not in ("decided", "failed"):
                current.state, current.finished = "failed", time.time()
                current.reason, current.failure = failure.detail, failure.kind


def pending_comparisons(session: Session, settings: Settings, current: RoundRow) -> set[str]:
    """Ids of a round's comparisons with fewer judgements (or skips) than wanted."""
    done = Counter(
        session.scalars(
            select(JudgementRow.comparison_id)
            .join(ComparisonRow, ComparisonRow.id == JudgementRow.comparison_id)
            .where(ComparisonRow.round_id == current.id, JudgementRow.state.in_(("active", "cancelled")))
        )
    )
    comparisons = store.comparisons(session, current.id)
    return {row.id for row in comparisons if done[row.id] < settings.reviews_per_comparison}


def leaderboard(session: Session, workspace_id: str) -> list[Standing]:
    """All versions that an ended review compared, best first."""
    matches = []
    for row in store.rounds(session, workspace_id):
        policy = policy_of(session, row.id)
        if row.verdict and policy is not None:
            results = review_results(store.active_judgements(session, row.id))
            tally = tally_of(results, store.comparisons(session, row.id))
            matches.append(Match(policy.parent, policy.id, tally))
    return rank_versions(matches)


def build_report(session: Session, settings: Settings, current: RoundRow) -> Report:
    """The report of a round; what its review says only once that has ended, for it is blind until then."""
    workspace = store.workspace(session, current.workspace)
    results = results_of(session, workspace.id, current.id)
    judged = review_results(store.active_judgements(session, current.id))
    policy = policy_of(session, current.id)
    return Report(
        title=workspace.title,
        number=current.number,
        model=policy.id if policy else "—",
        before=policy.parent if policy else "",
        verdict=current.verdict or {},
        reward=results.get("reward", {}),
        ppo=results.get("ppo", {}),
        compare=results.get("compare", {}),
        round_id=current.id,
        reason=round_words(current.state, current.failure, current.reason),
        gate_accuracy=settings_of(settings, workspace).gate_accuracy,
        leaderboard=leaderboard(session, workspace.id),
        advice=advice_for(session, settings, workspace, current),
        actions=action_views(
            [row for row in store.actions(session, workspace.id) if row.round_id == current.id]
        ),
        examples=[
            Example(row.prompt, row.before, row.after, row.seen, judged.get(row.id, ""))
            for row in (store.comparisons(session, current.id) if current.verdict else ())
        ],
        data=data_rows(_data_of(session, current, results)),
    )


def _model_of(session: Session, round_id: str) -> str:
    """The round's policy, or before there is one its reward model; empty before that."""
    query = select(ModelRow.id).where(ModelRow.round_id == round_id).order_by(ModelRow.created.desc())
    return session.scalars(query.limit(1)).first() or ""


def _data_of(session: Session, current: RoundRow, results: Mapping[str, dict[str, Any]]) -> Data:
    """Of what there was to rank in the round: prompts with candidates of a later one are left out."""
    workspace_id = current.workspace
    prompts = store.prompts(session, workspace_id)
    later = {row.prompt_id for row in prompts if row.round > current.number}
    rankings = [row for row in store.active_rankings(session, workspace_id) if row.prompt_id not in later]
    there = [row for row in prompts if row.prompt_id not in later and row.state != "deleted"]
    reward = results.get("reward", {})
    behind = dependences(session, workspace_id).get(_model_of(session, current.id), Dependence())
    return Data(
        rankings=len(rankings),
        suspicious=sum(ranking.suspicious for ranking in rankings),
        spread=_spread_of(session, workspace_id, there).to_json(),
        reward=reward,
        team=reward.get("team") or measure_agreement(map(ranking_record, rankings)).to_json(),
        consistency=consistency_of(session, workspace_id, rankings),
        prompts=store.prompt_texts(session, workspace_id, named_prompts(reward)),
        people=people.names(session),
        depends_on=behind.rankings,
        removed=behind.removed,
    )


def _spread_of(session: Session, workspace_id: str, prompts: Sequence[PromptRow]) -> Spread:
    """Of the candidates that these prompts have now, in whichever round they were made."""
    wanted = {row.prompt_id for row in prompts}
    candidates = [own for own in candidates_records(session, workspace_id) if own.prompt.id in wanted]
    known = {row.prompt_id: row.likeness for row in prompts if row.likeness is not None}
    return measure_spread(candidates, known)

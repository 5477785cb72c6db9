"""A workspace as it looks at one moment of the journey, written into a real store; made up.

`seed(store, "decided")` fills everything; earlier stages leave out what is not there yet.
`python -m tests.backend.web STAGE PORT` shows it in a browser.
"""

from __future__ import annotations

import math
import random
import time
from typing import Any, Literal

from sqlalchemy.orm import Session

from backend import store
from backend.store import Store
from backend.tables import (
    ComparisonRow,
    JudgementRow,
    MetricRow,
    ModelRow,
    PromptRow,
    RankingRow,
    ResponseRow,
    RoundRow,
    RunRow,
    SampleRow,
    WorkspaceRow,
)
from backend.verdict import judge_round

Stage = Literal["new", "collecting", "rewarding", "tuning", "reviewing", "decided"]
STAGES: tuple[Stage, ...] = ("new", "collecting", "rewarding", "tuning", "reviewing", "decided")
PROMPTS_PROJECT, RANKING_PROJECT, REVIEW_PROJECT = 11, 12, 13
NOW = time.time()

_PROMPTS = (
    "水壶里的水垢怎么清理？",
    "How do I get a red wine stain out of a tablecloth?",
    "快递显示已签收，但我没有收到，怎么办？",
    "Can I return the headphones if I have opened the box?",
)
_VERBOSE = (
    "尊敬的用户您好。关于您所咨询的水垢清理事宜，建议您首先准备适量的白醋或柠檬酸，将其与清水按照一定比例充分混合后"
    "注入壶中，静置约一小时，随后加热并倒出，最后以清水反复冲洗数次，方可继续正常使用。",
    "Thank you for your question. In order to remove a red wine stain from a tablecloth, it is advisable to "
    "first blot the affected area carefully with an absorbent cloth, subsequently apply a generous amount of "
    "salt, and finally launder the item at the temperature indicated on its label.",
    "尊敬的客户您好，非常抱歉给您带来不便。针对您反映的包裹显示已签收但实际并未收到的情况，建议您首先核实是否由"
    "家人、邻居或者物业代为签收，其次请与承运的快递公司取得联系并提供运单号码以便进一步查询。",
    "Dear customer, thank you for contacting us. With regard to the return of headphones whose packaging has "
    "already been opened, we would like to inform you that returns are in general accepted within thirty "
    "days, provided that the product shows no signs of use.",
)
_BRIEF = (
    "倒点白醋泡一小时，烧开再冲干净就行。",
    "Blot it, pour salt on it, then wash it cold.",
    "先问问家人和门卫，没有就打快递电话查。",
    "Sure, within 30 days, as long as it looks unused.",
)


def seed(opened: Store, stage: Stage, workspace: str = "team") -> None:
    """Fill the store up to this stage."""
    reached = STAGES.index(stage)
    writers = (_prompts, _rankings, _reward, _ppo, _review, _decision)
    with opened.session() as session:
        session.add(
            WorkspaceRow(
                id=workspace,
                title="客服口语化 · Support",
                prompts_project=PROMPTS_PROJECT,
                ranking_project=RANKING_PROJECT,
                review_project=REVIEW_PROJECT,
            )
        )
        for place, write in enumerate(writers):
            if place <= reached and stage != "new":
                write(session, workspace, place == reached)


def _prompts(session: Session, workspace: str, _newest: bool) -> None:
    for i in range(150):
        prompt = f"p{i:012x}"
        session.add(
            PromptRow(
                workspace=workspace,
                prompt_id=prompt,
                text=_PROMPTS[i % 4],
                split=("train", "train", "unseen", "train", "verification")[i % 5],
                source_task=i + 1,
                ranking_task=i + 1001,
                state="published",
            )
        )
        for k in range(3):
            session.add(
                ResponseRow(
                    id=f"a{i:04x}{k:04x}",
                    workspace=workspace,
                    prompt_id=prompt,
                    text=(_VERBOSE, _BRIEF, _VERBOSE)[k][i % 4],
                    policy="base",
                    position=k,
                    score=float(k == 1) + k / 10,
                    reward_model="reward-team-1",
                )
            )
    _run(session, workspace, "generate-1a2b3c4d", "generate", 450, 450, "candidates", True, None)


def _rankings(session: Session, workspace: str, newest: bool) -> None:
    for i in range(32 if newest else 132):
        first, second, third = (f"a{i:04x}{k:04x}" for k in (1, 0, 2))
        session.add(
            RankingRow(
                annotation_id=5000 + i,
                workspace=workspace,
                task=i + 1001,
                prompt_id=f"p{i:012x}",
                annotator=i % 3 + 1,
                updated_at="2026-03-01T10:00:00.000000Z",
                result_hash=f"{i:016x}",
                state="active",
                order=[[first], [second], [third]],
                lead_time=20.0 + i % 7,
            )
        )


def _reward(session: Session, workspace: str, newest: bool) -> None:
    session.add(
        RoundRow(
            id=f"{workspace}-r1", workspace=workspace, number=1, state="rewarding" if newest else "tuning"
        )
    )
    result = {
        "accuracy": 0.914, "interval": [0.862, 0.951], "pairs": 151, "ceiling": 0.941, "agreement": 0.81,
        "baseline_longer": 0.18, "baseline_shorter": 0.82, "outcome": "passed", "rankings_needed": 0,
    }  # fmt: skip
    _run(
        session, workspace, "reward-5e6f7a8b", "reward", 34 if newest else 60, 60, "steps", not newest, result
    )
    noise = random.Random(1)
    for step in range(1, (34 if newest else 60) + 1):
        fall = math.exp(-step / 14)
        values = {"reward/loss": 0.18 + 0.52 * fall + noise.gauss(0, 0.015)}
        values["reward/accuracy"] = min(0.98, 0.95 - 0.43 * fall + noise.gauss(0, 0.012))
        if step % 3 == 1:
            values["reward/heldout_loss"] = 0.24 + 0.46 * fall + noise.gauss(0, 0.008)
            values["reward/heldout_accuracy"] = 0.915 - 0.40 * fall + noise.gauss(0, 0.008)
        _metrics(session, "reward-5e6f7a8b", step, values)
    reward = session.get_one(RunRow, "reward-5e6f7a8b")
    reward.snapshot = [[5000 + i, f"{i:016x}"] for i in range(132)]
    reward.config = {
        "base_model": "embedded",
        "seed": 7,
        "ranking_decay": 0.8,
        "lineage": {"serving": "base"},
    }
    if not newest:
        _model(session, workspace, f"reward-{workspace}-1", "reward", "reward-5e6f7a8b", {"accuracy": 0.914})


def _ppo(session: Session, workspace: str, newest: bool) -> None:
    updates = 22 if newest else 36
    result = {
        "updates": 36, "stop_reason": "converged", "stop_measured": 3, "stop_limit": 3, "best_update": 32,
        "reward_before": -0.42, "reward_after": 1.87, "kl": 7.31, "length_before": 61.2, "length_after": 17.8,
        "resumed": False,
    }  # fmt: skip
    _run(session, workspace, "ppo-9c0d1e2f", "ppo", updates, 40, "updates", not newest, result)
    noise = random.Random(2)
    for update in range(1, updates + 1):
        rise = 1 - math.exp(-update / 11)
        values = {"objective/score": -0.4 + 2.3 * rise + noise.gauss(0, 0.12)}
        values["objective/kl"] = 7.5 * rise + noise.gauss(0, 0.25)
        values["objective/length"] = 61 - 44 * rise + noise.gauss(0, 1.5)
        values["ppo/clip_fraction"] = 0.12 * (1 - rise) + abs(noise.gauss(0, 0.02))
        if update % 4 == 1:
            values["verify/score"] = -0.42 + 2.3 * rise + noise.gauss(0, 0.05)
        _metrics(session, "ppo-9c0d1e2f", update, values)
        if update % 4 == 1 or update == updates:
            _samples(session, update, rise)
    session.get_one(RunRow, "ppo-9c0d1e2f").config = {
        "base_model": "embedded", "seed": 7, "clip_range": 0.2,
        "lineage": {"parent": "base", "reward_model": f"reward-{workspace}-1"},
    }  # fmt: skip
    if not newest:
        _model(session, workspace, f"policy-{workspace}-1", "policy", "ppo-9c0d1e2f", {"reward_after": 1.87})


def _samples(session: Session, update: int, rise: float) -> None:
    for i, prompt in enumerate(_PROMPTS):
        length = int(len(_VERBOSE[i]) * (1 - rise))
        text = _BRIEF[i] if rise > 0.6 else _VERBOSE[i][: max(length, 40)]
        session.add(
            SampleRow(
                run_id="ppo-9c0d1e2f",
                step=update,
                prompt_id=f"p{i:012x}",
                prompt=prompt,
                response=text,
                score=-0.5 + 2.4 * rise + i / 10,
            )
        )


def _review(session: Session, workspace: str, newest: bool) -> None:
    _run(session, workspace, "compare-3a4b5c6d", "compare", 40, 40, "comparisons", True, None)
    for row in session.query(RoundRow).filter_by(id=f"{workspace}-r1"):
        row.state = "reviewing"
    for i in range(40):
        session.add(
            ComparisonRow(
                id=f"c{i:012x}",
                workspace=workspace,
                round_id=f"{workspace}-r1",
                prompt_id=f"p{i:012x}",
                prompt=_PROMPTS[i % 4],
                seen=i < 15,
                before=_VERBOSE[i % 4],
                after=_BRIEF[i % 4],
                after_side="left" if i % 2 else "right",
                review_task=i + 2001,
            )
        )
        if i < (18 if newest else 40):
            session.add(
                JudgementRow(
                    annotation_id=9000 + i,
                    comparison_id=f"c{i:012x}",
                    workspace=workspace,
                    task=i + 2001,
                    reviewer=i % 3 + 1,
                    verdict="tie" if i % 8 == 5 else "before" if i % 10 == 9 else "after",
                    updated_at="2026-03-01T11:00:00.000000Z",
                    state="active",
                )
            )


def _decision(session: Session, workspace: str, _newest: bool) -> None:
    row = session.get_one(RoundRow, f"{workspace}-r1")
    row.state, row.finished = "decided", NOW
    row.verdict = judge_round(store.comparisons(session, row.id), store.active_judgements(session, row.id))


def _run(
    session: Session, workspace: str, run_id: str, kind: Any, done: int, total: int, what: str, ended: bool,
    result: dict[str, Any] | None,
) -> None:  # fmt: skip
    started = NOW - 60 * (10 - ("generate", "reward", "ppo", "compare").index(kind) * 2)
    session.add(
        RunRow(
            id=run_id,
            workspace=workspace,
            round_id=None if kind == "generate" else f"{workspace}-r1",
            kind=kind,
            dataset_hash=run_id,
            state="succeeded" if ended else "running",
            result=result if ended else None,
            attempts=1,
            progress_done=done,
            progress_total=total,
            progress_what=what,
            created=started,
            started=started,
            finished=started + 96 if ended else None,
        )
    )


def _metrics(session: Session, run_id: str, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        session.add(MetricRow(run_id=run_id, step=step, name=name, value=value, time=NOW))


def _model(
    session: Session, workspace: str, model: str, kind: Any, run: str, metrics: dict[str, Any]
) -> None:
    session.add(
        ModelRow(
            id=model,
            workspace=workspace,
            kind=kind,
            round_id=f"{workspace}-r1",
            run_id=run,
            path=model,
            base_model="embedded",
            metrics=metrics,
            created=NOW - 120,
        )
    )

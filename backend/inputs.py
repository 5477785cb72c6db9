"""Makes runs: decides what a stage is given, writes it into the run's directory and queues the row.

Everything happens in the caller's transaction, so that the decision to train and the run are one. A run is
known by a hash of its data and configuration: asking twice gives the same run. Next: `backend.launcher`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy.orm import Session

from backend import registry, store
from backend.errors import ConflictError
from backend.lineage import ranking_rounds
from backend.policy import UNFINISHED_ROUNDS
from backend.settings import Settings
from backend.tables import PromptRow, RankingRow, ResponseRow, RoundRow, RunKind, RunRow, WorkspaceRow
from trainers.config import CompareConfig, GenerationConfig, PPOConfig, RewardConfig, StageConfig
from trainers.manifest import write_json_atomic
from trainers.records import Candidates, Message, Prompt, Ranking, Record, Response, write_jsonl
from trainers.run_dir import RunDir

WORKSPACE_SETTINGS = frozenset(
    {
        "candidates_per_prompt", "train_after_rankings", "ranking_decay", "gate_accuracy", "auto_ppo",
        "auto_promote", "review_seen", "review_unseen", "reviews_per_comparison", "rankings_per_task",
        "repeated_tasks", "ppo_updates", "clip_range", "kl_coef", "ppo_learning_rate", "missing_eos_penalty",
        "max_similarity", "max_response_tokens", "seed", "base_model", "language",
    }
)  # fmt: skip
"""What a workspace may set for itself."""
_POLICIES = 2
"""Policies that write candidates beside the base model: the serving one, and the one that it came from."""


@dataclass(frozen=True)
class Queued:
    """A run that someone asked for."""

    run: RunRow
    round: RoundRow
    new: bool
    """False if it is under way or done already; or failed or cancelled and nobody asked to try again."""


def settings_of(settings: Settings, workspace: WorkspaceRow) -> Settings:
    """The settings in effect for a workspace."""
    known = {field.name for field in fields(Settings)} & WORKSPACE_SETTINGS
    own = {name: value for name, value in workspace.settings.items() if name in known}
    return replace(settings, **own)


def queue_generate(
    session: Session, settings: Settings, workspace_id: str, *, asked: bool = False, again: bool = False
) -> Queued | None:
    """Candidates for every prompt that has none; no run while one is open, or if there is no such prompt.

    They belong to the round that is under way, which they must not end by beginning the next.

    Args:
        asked: someone asked for it, so that a run which failed or was cancelled is tried again.
        again: the prompts had candidates before: draw others.
    """
    workspace = store.workspace(session, workspace_id)
    settings = settings_of(settings, workspace)
    earlier = [run for run in store.runs(session, workspace_id) if run.kind == "generate"]
    # a prompt that is `generating` while no run is open is left from one that failed
    prompts = store.prompts(session, workspace_id, "new", "generating")
    if not prompts or any(run.state in ("queued", "running") for run in earlier):
        return None
    *newest_first, _ = registry.ancestors(session, workspace.serving_policy)
    policies = newest_first[:_POLICIES][::-1]
    if again:  # the same seed would draw the same answers
        settings = replace(settings, seed=secrets.randbelow(2**32))
    config = GenerationConfig(
        **_common(settings),
        candidates_per_prompt=settings.candidates_per_prompt,
        max_similarity=settings.max_similarity,
        policies=tuple(_path(session, settings, workspace_id, policy) for policy in policies),
        policy_ids=tuple(policies),
    )
    last = store.current_round(session, workspace_id)
    queued = _queue(
        session, settings, workspace_id, "generate",
        last if last and last.state in UNFINISHED_ROUNDS else None, config,
        data=[prompt.prompt_id for prompt in prompts],
        inputs={"prompts.jsonl": [prompt_record(prompt) for prompt in prompts]},
        asked=asked,
    )  # fmt: skip
    if queued.new:
        for prompt in prompts:
            prompt.state, prompt.round = "generating", queued.round.number
    return queued


def queue_reward(session: Session, settings: Settings, workspace_id: str, *, asked: bool) -> Queued:
    """The reward model of exactly the rankings that count now; begins a round unless one collects.

    The newest run is the answer if it was given the same: it is that model that PPO learns from. An older
    one is not, so that what was added may be taken away again.

    Args:
        asked: someone asked for it, so that one which failed or was cancelled is tried again.
    Raises: ConflictError: there is no ranking.
    """
    workspace = store.workspace(session, workspace_id)
    settings = settings_of(settings, workspace)
    rankings = store.active_rankings(session, workspace_id)
    if not rankings:
        raise ConflictError("there are no rankings to train on yet; rank some answers in Label Studio first")
    config = RewardConfig(
        **_common(settings), gate_accuracy=settings.gate_accuracy, ranking_decay=settings.ranking_decay
    )
    lineage = {"serving": workspace.serving_policy}
    snapshot = store.snapshot(rankings)
    newest = store.newest_run(session, workspace_id, "reward")
    if newest and newest.snapshot == snapshot and newest.config == _recorded(config, lineage):
        return _known(session, newest, asked)
    current = collecting_round(session, workspace_id)
    rounds = ranking_rounds(session, workspace_id)
    queued = _queue(
        session, settings, workspace_id, "reward", current, config,
        data=[store.dataset_hash(session, workspace_id), newest.id if newest else ""],
        inputs={
            "candidates.jsonl": candidates_records(session, workspace_id),
            "rankings.jsonl": [
                replace(ranking_record(row), round=rounds.get(store.ranking_key(row), current.number))
                for row in rankings
            ],
        },
        snapshot=snapshot,
        lineage=lineage,
        asked=asked,
    )  # fmt: skip
    if queued.new:
        queued.round.state, queued.round.reason, queued.round.finished = "rewarding", "", None
        queued.round.dataset_hash = store.dataset_hash(session, workspace_id)
    return queued


def queue_ppo(session: Session, settings: Settings, current: RoundRow, *, asked: bool = False) -> Queued:
    """PPO from the serving policy towards the round's reward model, on every train prompt.

    Raises: ConflictError: the round has no reward model, or the workspace no train prompts.
    """
    workspace = store.workspace(session, current.workspace)
    settings = settings_of(settings, workspace)
    reward_model = next(
        (m for m in reversed(store.models(session, workspace.id)) if m.kind == "reward"), None
    )
    if reward_model is None:
        raise ConflictError(f"round `{current.id}` has no reward model yet; train it first")
    train, verification, _ = prompts_by_split(session, workspace.id)
    if not train:
        raise ConflictError("no prompt is in the train split; import more prompts (100 to 200 work well)")
    parent = workspace.serving_policy
    config = PPOConfig(
        **_common(settings),
        reward_model=_path(session, settings, workspace.id, reward_model.id),
        start_policy="" if parent == registry.BASE else _path(session, settings, workspace.id, parent),
        updates=settings.ppo_updates,
        clip_range=settings.clip_range,
        kl_coef=settings.kl_coef,
        learning_rate=settings.ppo_learning_rate or None,
        missing_eos_penalty=settings.missing_eos_penalty,
    )
    queued = _queue(
        session, settings, workspace.id, "ppo", current, config,
        data=[current.id, [prompt.prompt_id for prompt in (*train, *verification)]],
        inputs={
            "prompts.jsonl": [prompt_record(prompt) for prompt in train],
            # with very few prompts the look at progress uses those that it learns from
            "verification.jsonl": [prompt_record(prompt) for prompt in verification or train],
        },
        lineage={"parent": parent, "reward_model": reward_model.id},
        asked=asked,
    )  # fmt: skip
    if queued.new:
        current.state, current.reason, current.finished = "tuning", "", None
    return queued


def queue_compare(session: Session, settings: Settings, current: RoundRow, after_id: str) -> Queued:
    """Answers of a new policy and of its parent to prompts seen in training and prompts never seen."""
    workspace = store.workspace(session, current.workspace)
    settings = settings_of(settings, workspace)
    train, _, unseen = prompts_by_split(session, workspace.id)
    chosen = [
        *_sample(train, settings.review_seen, current.id),
        *_sample(unseen, settings.review_unseen, current.id),
    ]
    before_id = next(m.parent for m in store.models(session, workspace.id) if m.id == after_id)
    config = CompareConfig(
        **_common(settings),
        before="" if before_id == registry.BASE else _path(session, settings, workspace.id, before_id),
        before_id=before_id,
        after=_path(session, settings, workspace.id, after_id),
        after_id=after_id,
    )
    queued = _queue(
        session, settings, workspace.id, "compare", current, config,
        data=[after_id, [prompt.prompt_id for prompt in chosen]],
        inputs={"prompts.jsonl": [prompt_record(prompt) for prompt in chosen]},
        lineage={"before": before_id, "after": after_id},
    )  # fmt: skip
    if queued.new:
        current.state = "comparing"
    return queued


def try_again(session: Session, settings: Settings, run: RunRow) -> None:
    """Make up for a failed or cancelled run.

    With the same data and settings it goes on where it was. Candidates and the reward model begin anew if
    those have changed, so that a base model which does not exist or fit can be replaced.

    Raises: ConflictError: it is under way or done, or nothing is left to be done.
    """
    _check_ended_badly(run)
    if run.kind == "generate":
        if queue_generate(session, settings, run.workspace, asked=True) is None:
            raise ConflictError(
                f"nothing is left of run `{run.id}`: all prompts have candidates, or they are on their way"
            )
    elif run.kind == "reward":
        queue_reward(session, settings, run.workspace, asked=True)
    else:
        requeue(run)


def requeue(run: RunRow) -> None:
    """Let a failed or cancelled run go on where it was.

    Raises: ConflictError: it is under way or done.
    """
    _check_ended_badly(run)
    run.state, run.error, run.finished, run.lease_until = "queued", "", None, 0.0
    run.attempts, run.created = 0, time.time()


def _check_ended_badly(run: RunRow) -> None:
    if run.state not in ("failed", "cancelled"):
        raise ConflictError(f"run `{run.id}` cannot be tried again: it is {run.state}")


def collecting_round(session: Session, workspace_id: str) -> RoundRow:
    """The round that collects rankings now; begun if the last one is past that."""
    last = store.current_round(session, workspace_id)
    if last is not None and last.state in ("collecting", "gated", "failed"):
        return last
    number = last.number + 1 if last else 1
    current = RoundRow(id=f"{workspace_id}-r{number}", workspace=workspace_id, number=number)
    session.add(current)
    session.flush()
    return current


def prompts_by_split(
    session: Session, workspace_id: str
) -> tuple[list[PromptRow], list[PromptRow], list[PromptRow]]:
    """The prompts that still exist: train, verification, unseen."""
    alive = [p for p in store.prompts(session, workspace_id) if p.state != "deleted"]
    train, verification, unseen = (
        [p for p in alive if p.split == split] for split in ("train", "verification", "unseen")
    )
    return train, verification, unseen


def prompt_record(row: PromptRow) -> Prompt:
    history = [Message.from_json(turn) for turn in row.history]
    return Prompt(row.prompt_id, row.text, row.system, tuple(history), row.split)  # type: ignore[arg-type]


def response_record(row: ResponseRow) -> Response:
    return Response(
        id=row.id, prompt_id=row.prompt_id, text=row.text, policy=row.policy, style=row.style,
        temperature=row.temperature, finished=row.finished, flags=tuple(row.flags),
    )  # fmt: skip


def ranking_record(row: RankingRow) -> Ranking:
    """The ranking; one whose author's account is gone has an annotator of its own."""
    return Ranking(
        id=str(row.annotation_id),
        prompt_id=row.prompt_id,
        annotator=str(row.annotator) if row.annotator else f"unknown-{row.annotation_id}",
        order=tuple(tuple(group) for group in row.order),
        close=row.close,
        all_bad=row.all_bad,
    )


def candidates_records(session: Session, workspace_id: str) -> list[Candidates]:
    """Every prompt that has answers, with all of them."""
    answers: dict[str, list[Response]] = {}
    for row in store.responses(session, workspace_id):
        answers.setdefault(row.prompt_id, []).append(response_record(row))
    return [
        Candidates(prompt_record(prompt), tuple(answers[prompt.prompt_id]))
        for prompt in store.prompts(session, workspace_id)
        if prompt.prompt_id in answers
    ]


def _queue(
    session: Session,
    settings: Settings,
    workspace_id: str,
    kind: RunKind,
    current: RoundRow | None,
    config: StageConfig,
    *,
    data: object,
    inputs: Mapping[str, Iterable[Record]],
    snapshot: list[list[Any]] | None = None,
    lineage: dict[str, str] | None = None,
    asked: bool = False,
) -> Queued:
    key = json.dumps([data, config.to_json()], sort_keys=True, ensure_ascii=False)
    dataset_hash = hashlib.sha256(key.encode()).hexdigest()[:16]
    if (known := store.run_for(session, workspace_id, kind, dataset_hash)) is not None:
        return _known(session, known, asked)
    current = current or collecting_round(session, workspace_id)
    run_id = f"{kind}-{secrets.token_hex(4)}"
    run_dir = RunDir.of(settings.runs_dir.absolute(), run_id)
    for name, records in inputs.items():
        write_jsonl(run_dir.input(name), records)
    write_json_atomic(run_dir.config_path, config.to_json())
    run = RunRow(
        id=run_id,
        workspace=workspace_id,
        round_id=current.id,
        kind=kind,
        dataset_hash=dataset_hash,
        config=_recorded(config, lineage or {}),
        snapshot=snapshot or [],
    )
    session.add(run)
    session.flush()
    return Queued(run, current, True)


def _known(session: Session, run: RunRow, asked: bool) -> Queued:
    """A run that is there already; tried again if it failed or was cancelled and someone asked for it."""
    again = asked and run.state in ("failed", "cancelled")
    if again:
        requeue(run)
    return Queued(run, _round(session, run), again)


def _recorded(config: StageConfig, lineage: Mapping[str, str]) -> dict[str, Any]:
    """What a run's row says of its configuration, and of which models it comes from."""
    return {**config.to_json(), "lineage": dict(lineage)}


def _round(session: Session, run: RunRow) -> RoundRow:
    found = session.get(RoundRow, run.round_id)
    assert found is not None  # noqa: S101 - `_queue` gives every run a round
    return found


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "base_model": settings.base_model,
        "seed": settings.seed,
        "max_response_tokens": settings.max_response_tokens,
    }


def _path(session: Session, settings: Settings, workspace_id: str, model_id: str) -> str:
    return registry.resolve(session, workspace_id, model_id, base_model=settings.base_model)


def _sample(prompts: Sequence[PromptRow], number: int, seed: str) -> list[PromptRow]:
    """The same choice for the same seed, whatever order they come in."""
    return sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}/{p.prompt_id}".encode()).digest())[:number]

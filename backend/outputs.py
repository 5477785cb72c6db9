"""Takes over what a finished stage left in its run directory: rows, scores, models, comparisons.

Each `finish_*` runs in the transaction that ends the run and holds its fence, and does the same when it runs
again. Knows nothing of Label Studio; `backend.writeback` shows the result to people.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import registry, store
from backend.annotations import shown_prompt
from backend.errors import RegistryError
from backend.settings import Settings
from backend.tables import ComparisonRow, ModelKind, ModelRow, PromptRow, ResponseRow, RunRow
from trainers.manifest import TEMPORARY
from trainers.records import Candidates, Comparison, Response, read_jsonl
from trainers.run_dir import RunDir
from trainers.spread import likeness

FEWEST_CANDIDATES = 2
"""A prompt with fewer usable answers cannot be ranked."""

_KIND: dict[str, ModelKind] = {"reward": "reward", "ppo": "policy"}


class Outputs:
    """The results of one data directory's runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run_dir(self, run: RunRow) -> RunDir:
        return RunDir.of(self.settings.runs_dir.absolute(), run.id)

    def stage_model(self, run: RunRow, run_dir: RunDir, fence: int) -> None:
        """Copy the model that a run made, before the transaction that publishes it."""
        registry.stage_model(run_dir.model_dir, self._models_dir, self._staged_name(run, fence))

    def finish_generate(self, session: Session, run: RunRow, _result: dict[str, Any]) -> None:
        """Store the answers in a shuffled order; a prompt without two usable ones is flagged."""
        made = {c.prompt.id: c for c in read_jsonl(self.run_dir(run).output("candidates.jsonl"), Candidates)}
        for prompt in prompts_of_run(session, self.run_dir(run), run.workspace):
            candidates = made.get(prompt.prompt_id)
            usable = [r for r in candidates.responses if not r.flags] if candidates else []
            if len(usable) < FEWEST_CANDIDATES:
                prompt.state, prompt.likeness = "flagged", None
                continue
            prompt.likeness = likeness(usable)
            random.shuffle(usable)
            for position, response in enumerate(usable):
                session.merge(_response_row(run.workspace, response, position))
            prompt.state = "ready"

    def finish_reward(self, session: Session, run: RunRow, result: dict[str, Any]) -> None:
        """Publish the reward model and keep its score of every answer."""
        model = self._publish(session, run, result, parent=registry.BASE)
        scores = _read_scores(self.run_dir(run).output("scores.jsonl"))
        for response in store.responses(session, run.workspace):
            if response.id in scores:
                response.score, response.reward_model = scores[response.id], model.id

    def finish_ppo(self, session: Session, run: RunRow, result: dict[str, Any]) -> None:
        """Publish the policy."""
        self._publish(session, run, result, parent=run.config["lineage"]["parent"])

    def finish_compare(self, session: Session, run: RunRow, _result: dict[str, Any]) -> None:
        """Store the comparisons; which side is which is drawn here and known to these rows alone."""
        made = read_jsonl(self.run_dir(run).output("comparisons.jsonl"), Comparison)
        for comparison in made:
            asked = comparison.prompt
            key = hashlib.sha256(f"{run.id}/{asked.id}".encode()).hexdigest()
            session.merge(
                ComparisonRow(
                    id=f"c{key[:12]}",
                    workspace=run.workspace,
                    round_id=run.round_id,
                    prompt_id=asked.id,
                    prompt=shown_prompt(asked),
                    seen=comparison.seen,
                    before=comparison.before.text,
                    after=comparison.after.text,
                    after_side=secrets.choice(("left", "right")),
                )
            )

    def _publish(self, session: Session, run: RunRow, result: dict[str, Any], *, parent: str) -> ModelRow:
        staged = self._models_dir / f"{TEMPORARY}{self._staged_name(run, run.fence)}"
        return registry.publish(
            session,
            run,
            _KIND[run.kind],
            staged,
            parent=parent,
            base_model=str(run.config["base_model"]),
            metrics={name: value for name, value in result.items() if not isinstance(value, dict)},
        )

    @property
    def _models_dir(self) -> Path:
        return self.settings.models_dir.absolute()

    @staticmethod
    def _staged_name(run: RunRow, fence: int) -> str:
        return f"{run.id}-{fence}"


def prompts_of_run(session: Session, run_dir: RunDir, workspace_id: str) -> list[PromptRow]:
    """The prompts that a generate run was given and that still wait for it."""
    lines = run_dir.input("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = {json.loads(line)["id"] for line in lines if line.strip()}
    waiting = select(PromptRow).where(PromptRow.workspace == workspace_id, PromptRow.state == "generating")
    return [prompt for prompt in session.scalars(waiting) if prompt.prompt_id in wanted]


def _response_row(workspace_id: str, response: Response, position: int) -> ResponseRow:
    return ResponseRow(
        id=response.id,
        workspace=workspace_id,
        prompt_id=response.prompt_id,
        text=response.text,
        policy=response.policy,
        style=response.style,
        temperature=response.temperature,
        finished=response.finished,
        flags=list(response.flags),
        position=position,
    )


def _read_scores(path: Path) -> dict[str, float]:
    """Raises: RegistryError: the reward stage left no usable scores."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {str(line["response_id"]): float(line["score"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"the scores in `{path}` cannot be read; train the reward model again") from error

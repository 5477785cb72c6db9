"""The reward model: learns what the annotators prefer, and is held against the gate.

Reads the candidates and their rankings, trains on the prompts of the `train` split, chooses the weights by
the loss on `verification` prompts, measures on `verification` and `unseen` ones. Every number of the result
comes from the model as it was written to disk. `trainers.ppo` takes the model from here, the backend the
result and the scores of all candidates. Knows nothing of Label Studio.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from trainers.config import RewardConfig
from trainers.conversations import encode_conversations
from trainers.errors import ModelError, RecordError
from trainers.manifest import verify_manifest
from trainers.model_files import load_config
from trainers.models import load_reward_model
from trainers.preferences import derive_preferences, require_enough, weight_by_round
from trainers.ranking_batch import RankedAnswers, bootstrap_weights
from trainers.ranking_trainer import Schedule, train_on_rankings
from trainers.records import Candidates, Preference, Ranking, Record, Response, Split, read_jsonl, write_jsonl
from trainers.reward_gate import judge
from trainers.reward_model import centre_heads, disagreement, head_scores, new_reward_model, save_reward_model
from trainers.run_dir import RunDir

MIN_VERIFICATION_PAIRS = 10
"""With fewer, their loss says too little: all epochs are trained and the last weights are kept."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters for a number of prompts to learn from."""

    prompts: int
    """Up to this many prompts with a preference."""
    epochs: int
    prompts_per_step: int
    patience: int
    """Epochs without a lower verification loss after which training ends."""


RECIPES = (
    Recipe(prompts=20, epochs=10, prompts_per_step=4, patience=3),
    Recipe(prompts=60, epochs=6, prompts_per_step=6, patience=2),
    Recipe(prompts=200, epochs=4, prompts_per_step=8, patience=2),
    Recipe(prompts=1000, epochs=2, prompts_per_step=16, patience=1),
    Recipe(prompts=10**9, epochs=1, prompts_per_step=32, patience=1),
)
"""The first that fits is taken; `RewardConfig` overrides its epochs; docs/settings.md shows it. Measured
with the embedded base model on 30, 60 and 120 rankings, 60 % of them to learn from: the verification loss is
lowest after 3 to 5 epochs at the step size below, and lower than at half of it."""
LORA_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 1e-3
"""For models up to `REFERENCE_WIDTH` wide; wider ones take smaller steps in proportion."""
REFERENCE_WIDTH = 256


@dataclass(frozen=True)
class Score(Record):
    """What the reward model thinks of one answer."""

    response_id: str
    score: float
    disagreement: float | None = None
    """Standard deviation of the heads' scores; `None` with one head."""


def run(config: RewardConfig, run_dir: RunDir) -> dict[str, Any]:
    """Train, write `model/` and `output/scores.jsonl`, and decide the gate.

    Returns: the result of the stage; see `trainers.reward_gate.judge` and `train` (`chosen`).
    Raises:
        DataError: too little data, or nothing but ties; says what to rank.
        RecordError: a file is malformed.
        ModelError: the base model cannot be used.
    """
    started = time.monotonic()
    torch.set_num_threads(config.threads or torch.get_num_threads())

    # 1. Rankings become preferences between answers, those of some prompts held out.
    candidates = read_jsonl(run_dir.input("candidates.jsonl"), Candidates)
    _require_unique_ids(candidates)
    rankings = read_jsonl(run_dir.input("rankings.jsonl"), Ranking)
    splits: dict[str, Split] = {c.prompt.id: c.prompt.split for c in candidates}
    preferences = derive_preferences(rankings, candidates, decay=config.ranking_decay)
    counts = require_enough(rankings, preferences, splits)

    # 2. Train, unless a run that was killed later had come that far.
    chosen = _finished_training(run_dir.model_dir)
    if chosen is None:
        chosen = train(config, run_dir, candidates, rankings, preferences)

    # 3. Score every candidate with the model as it is on disk.
    scores = score_candidates(config, run_dir.model_dir, candidates)
    write_jsonl(run_dir.output("scores.jsonl"), scores)

    # 4. Hold it against the gate.
    by_id = {score.response_id: score.score for score in scores}
    result = judge(config, counts, candidates, rankings, preferences, by_id)
    return {**result, "chosen": chosen, "seconds": round(time.monotonic() - started, 1)}


def train(
    config: RewardConfig,
    run_dir: RunDir,
    candidates: Sequence[Candidates],
    rankings: Sequence[Ranking],
    preferences: Sequence[Preference],
) -> dict[str, Any]:
    """Train the reward model and save it.

    Returns: what was chosen: tuning, ensemble, the schedule, steps, steps_total, best_step, resumed, rounds.
    """
    reward, tuning = new_reward_model(config)
    weights = weight_by_round(rankings, config.ranking_decay)
    by_split: dict[Split, list[RankedAnswers]] = defaultdict(list)
    for own in _by_prompt(candidates, rankings, preferences):
        by_split[own.candidates.prompt.split].append(own.encoded(reward, config, weights))
    learnt_from = [
        replace(answers, head_weights=bootstrap_weights(str(number), config.ensemble, config.seed))
        for number, answers in enumerate(by_split["train"])
    ]
    verification = by_split["verification"]
    if sum(len(answers.pairs) for answers in verification) < MIN_VERIFICATION_PAIRS:
        verification = []
    width = load_config(config.base_model).hidden_size
    schedule = choose_schedule(config, tuning, len(learnt_from), width)
    outcome = train_on_rankings(reward, learnt_from, verification, schedule, run_dir)
    if config.ensemble > 1:
        learnt_rows = [row for answers in learnt_from for row in answers.rows]
        centre_heads(reward, learnt_rows, config.batch_size)
    chosen = {"tuning": tuning, "ensemble": config.ensemble, **asdict(schedule), **outcome}
    if tuning == "lora":
        chosen["lora_rank"] = config.lora_rank
    made = Counter(ranking.round for ranking in rankings)
    chosen["rounds"] = [
        {"round": number, "rankings": made[number], "weight": weight} for number, weight in weights.items()
    ]
    lineage = {
        "kind": "reward",
        "chosen": chosen,
        "config": config.to_json(),
        "rankings": sorted(ranking.id for ranking in rankings),
        "libraries": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    run_dir.save_model(lambda directory: save_reward_model(reward, directory), lineage)
    return chosen


def choose_schedule(
    config: RewardConfig, tuning: Literal["full", "lora"], prompts: int, width: int
) -> Schedule:
    """The recipe for this much data and this model, with what the configuration sets itself.

    Args:
        prompts: how many there are to learn from.
        width: the model's hidden size.
    """
    recipe = next(recipe for recipe in RECIPES if prompts <= recipe.prompts)
    full = FULL_LEARNING_RATE * min(1.0, REFERENCE_WIDTH / width)
    return Schedule(
        loss=config.loss,
        learning_rate=config.learning_rate or (full if tuning == "full" else LORA_LEARNING_RATE),
        epochs=config.epochs or recipe.epochs,
        prompts_per_step=recipe.prompts_per_step,
        patience=recipe.patience,
        rows_per_pass=config.batch_size,
        seed=config.seed,
    )


def score_candidates(config: RewardConfig, model_dir: Path, candidates: Iterable[Candidates]) -> list[Score]:
    """The scores of all answers, by the reward model of a directory."""
    reward = load_reward_model(config.base_model, str(model_dir))
    asked = [(c.prompt, response) for c in candidates for response in c.responses]
    rows = encode_conversations(
        reward.tokenizer,
        [prompt for prompt, _ in asked],
        [response.text for _, response in asked],
        config.max_prompt_tokens,
        config.max_response_tokens,
    )
    by_head = head_scores(reward, rows, config.batch_size)
    scores = by_head.mean(dim=1).tolist()
    apart = disagreement(by_head).tolist() if reward.heads > 1 else [None] * len(scores)
    return [Score(response.id, *found) for (_, response), *found in zip(asked, scores, apart, strict=True)]


@dataclass(frozen=True)
class _Ranked:
    """A prompt's answers that take part in a preference."""

    candidates: Candidates
    responses: tuple[Response, ...]
    rankings: tuple[Ranking, ...]
    preferences: tuple[Preference, ...]

    def encoded(self, reward: Any, config: RewardConfig, weights: Mapping[int, float]) -> RankedAnswers:
        """
        Args:
            weights: of the rankings of each round. Those of a prompt share it: a prompt that three people
                ranked counts as much as one that one ranked.
        """
        rows = encode_conversations(
            reward.tokenizer,
            [self.candidates.prompt] * len(self.responses),
            [response.text for response in self.responses],
            config.max_prompt_tokens,
            config.max_response_tokens,
        )
        place = {response.id: index for index, response in enumerate(self.responses)}
        pairs = [(place[p.chosen_id], place[p.rejected_id], p.weight) for p in self.preferences]
        ranked = [(self._ranks(own), weights[own.round] / len(self.rankings)) for own in self.rankings]
        preferring = [(ranks, weight) for ranks, weight in ranked if len(set(ranks) - {-1}) > 1]
        return RankedAnswers(
            rows=tuple(map(tuple, rows)),
            pairs=tuple(pairs),
            rankings=tuple(ranks for ranks, _ in preferring),
            ranking_weights=tuple(weight for _, weight in preferring),
        )

    def _ranks(self, ranking: Ranking) -> tuple[int, ...]:
        """The place of each response in a ranking, −1 where it is not ranked."""
        places = {key: place for place, group in enumerate(ranking.order) for key in group}
        return tuple(places.get(response.id, -1) for response in self.responses)


def _require_unique_ids(candidates: Iterable[Candidates]) -> None:
    """Scores go by the answers' ids alone."""
    prompt_of: dict[str, str] = {}
    for entry in candidates:
        for response in entry.responses:
            if (other := prompt_of.setdefault(response.id, entry.prompt.id)) != entry.prompt.id:
                raise RecordError(
                    f"an answer to prompt `{other}` and one to `{entry.prompt.id}` have the same id"
                    f" `{response.id}`; needed is each id once, e.g. `{entry.prompt.id}-{response.id}`"
                )


def _by_prompt(
    candidates: Iterable[Candidates], rankings: Iterable[Ranking], preferences: Iterable[Preference]
) -> list[_Ranked]:
    """Prompts with a preference, in the order of their ids: the order of a file must not change the model."""
    own_preferences: dict[str, list[Preference]] = defaultdict(list)
    for preference in preferences:
        own_preferences[preference.prompt_id].append(preference)
    own_rankings: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in sorted(rankings, key=lambda ranking: ranking.annotator):
        own_rankings[ranking.prompt_id].append(ranking)
    ranked = []
    for entry in sorted(candidates, key=lambda entry: entry.prompt.id):
        key = entry.prompt.id
        ids = {each for p in own_preferences[key] for each in (p.chosen_id, p.rejected_id)}
        if ids:
            responses = tuple(sorted((r for r in entry.responses if r.id in ids), key=lambda r: r.id))
            preferred = tuple(own_preferences[key])
            ranked.append(_Ranked(entry, responses, tuple(own_rankings[key]), preferred))
    return ranked


def _finished_training(model_dir: Path) -> dict[str, Any] | None:
    """What was chosen when the model in this directory was trained; `None` without a complete model."""
    if not model_dir.is_dir():
        return None
    try:
        chosen: dict[str, Any] = verify_manifest(model_dir)["lineage"]["chosen"]
    except ModelError:
        return None
    return chosen

"""PPO from a starting policy towards a reward, readable from top to bottom.

    run            files in, files out: what `python -m trainers ppo` calls
    train_ppo      the loop, in numbered steps
    collect        responses, scores, advantages
    learn          the value model and clipped policy updates on them
    look           the verification prompts, from which checkpoint and stop are decided

Knows nothing of Label Studio or of how the reward was trained. The result goes to `trainers.compare`.
Sources: Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019, arXiv:1909.08593; Huang et al. 2024,
"The N+ implementation details of RLHF with PPO", arXiv:2403.17031.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.advantages import (
    adapt_kl_coef,
    adapt_step_scale,
    explained_variance,
    gae,
    masked_mean,
    rewards_to_go,
    token_rewards,
    whiten,
)
from trainers.config import PPOConfig
from trainers.errors import DataError
from trainers.losses import kl_k1, kl_k3, policy_loss
from trainers.ppo_run import Trainer, finish, save_checkpoint, start, trained_parameters
from trainers.ppo_state import TrainingState, generator_for, prompts_of_update
from trainers.records import Prompt, read_jsonl
from trainers.reward_source import RewardFunction
from trainers.rollout import Rollout, evaluate, scatter
from trainers.run_dir import RunDir
from trainers.stopping import Stopped, stop_requested
from trainers.text import is_garbled, is_repetitive
from trainers.verification import Look, is_best, stop_after_update

log = logging.getLogger(__name__)

LEAST_LOOK, MOST_LOOK = 32, 64
"""Answers in one look: few verification prompts are answered several times, of many the first are taken."""
SHOWN_SAMPLES = 3
WARM_UP_UPDATES = 4
"""AdamW's first steps are as large as the step size, whatever the gradient: they are kept small."""


@dataclass(frozen=True)
class Experience:
    """One update's rollouts with what is to be learnt from them."""

    rollout: Rollout
    advantages: Tensor
    """Whitened, zero where masked. (B, R)"""
    returns: Tensor
    """(B, R), zero where masked."""
    features: Tensor
    """What the value model reads of each state, row after row. (N, H)"""
    measured: dict[str, float]


def run(config: PPOConfig, run_dir: RunDir) -> dict[str, Any]:
    """The stage: prompts from `input/`, the policy to `model/`, sample answers to `output/`."""
    prompts = read_jsonl(run_dir.input("prompts.jsonl"), Prompt)
    path = run_dir.input("verification.jsonl")
    return train_ppo(config, run_dir, prompts, read_jsonl(path, Prompt) if path.is_file() else [])


def train_ppo(
    config: PPOConfig,
    run_dir: RunDir,
    prompts: Sequence[Prompt],
    verification_prompts: Sequence[Prompt],
    reward: RewardFunction | None = None,
) -> dict[str, Any]:
    """Train until the reward has converged, a guard stops it, or all updates are made; resumes by itself.

    Args:
        prompts: what PPO learns on.
        verification_prompts: choose the checkpoint and stop the run; `prompts` where there are none.
        reward: replaces `config.reward_model`.
    Returns:
        The content of result.json; the best policy is in `run_dir.model_dir`.
    Raises:
        DataError: no prompt, or a reward that is no number.
        ModelError, ConfigError: what the configuration names cannot be used.
        Stopped: told to end; a checkpoint was saved.
    """
    if not prompts:
        raise DataError("there is no prompt to train on; needed is at least one in `input/prompts.jsonl`")
    # 1. One base with policy and reference; this run's state, or that of the interrupted one.
    trainer, state = start(config, run_dir, reward)
    looked_at = _prompts_to_look_at(verification_prompts or prompts)
    with trainer.metrics:
        if not state.looks:
            warm_up_values(trainer, state, prompts)
            _take_look(trainer, state, looked_at)
        while state.stop is None:
            begun = time.monotonic()
            state.update += 1

            # 2. Sample responses, score them, turn scores into advantages.
            batch = prompts_of_update(prompts, config.seed, state.update, config.rollouts)
            experience = collect(trainer, state, batch)
            collected = time.monotonic()

            # 3. Small clipped steps on them.
            measured = learn(trainer, experience, state.update, state.step_scale)
            state.step_scale = adapt_step_scale(
                state.step_scale, measured["ppo/approx_kl"], kl_stop=config.epoch_kl_stop
            )

            # 4. Hold the KL near its target, where there is one.
            kl = experience.measured["objective/kl"]
            if config.kl_target is not None:
                state.kl_coef = adapt_kl_coef(
                    state.kl_coef,
                    kl,
                    target=config.kl_target,
                    horizon=config.kl_horizon,
                    responses=len(batch),
                )

            # 5. Say what happened.
            times = {"time/rollout_s": collected - begun, "time/update_s": time.monotonic() - collected}
            trainer.metrics.log(state.update, **experience.measured, **measured, **times)
            trainer.metrics.progress(state.update, config.updates, "updates", step=state.update)

            # 6. Look at the verification prompts; keep the best policy; decide whether to go on.
            if state.update % config.verify_every == 0 or state.update == config.updates:
                _take_look(trainer, state, looked_at)
            stop = stop_after_update(
                config,
                state.looks,
                state.best_update,
                update=state.update,
                kl=kl,
                stepped=measured["ppo/learning_rate"] > 0,
            )
            state.stop = trainer.group.from_main(stop)
            state.seconds += time.monotonic() - begun

            # 7. Save, so that a killed run goes on from here.
            told_to_stop = trainer.group.any(stop_requested())
            if told_to_stop or state.stop or state.update % config.checkpoint_every == 0:
                save_checkpoint(run_dir, trainer, state)
            if told_to_stop:
                raise Stopped

    # 8. The best policy is the result, not the last.
    return finish(run_dir, trainer, state)


def warm_up_values(trainer: Trainer, state: TrainingState, prompts: Sequence[Prompt]) -> None:
    """Let the value model see responses of the starting policy: the first update depends on it already."""
    if count := trainer.config.value_warm_up:
        experience = collect(trainer, state, prompts_of_update(prompts, trainer.config.seed, 1, count))
        trainer.value_model.learn(experience.features, experience.returns[experience.rollout.response_mask])
        state.train_scores = []


def collect(trainer: Trainer, state: TrainingState, prompts: Sequence[Prompt]) -> Experience:
    """Sample a response to each prompt, score it, and compute advantages. Updates the score moments."""
    config = trainer.config
    # 1. Responses with their logprobs; what the reference and the value model say of them.
    rollout, texts = trainer.respond(prompts, generator_for(config.seed, state.update, "rollout"))
    mask = rollout.response_mask
    ref_logprobs, features = trainer.reference(rollout)
    kl = kl_k1(rollout.logprobs, ref_logprobs)  # (B, R)
    values = scatter(trainer.value_model.values(features).cpu(), mask)  # (B, R)

    # 2. One score a response, standardised; a response that did not end pays for it.
    raw_scores = trainer.score(prompts, texts)
    state.moments = state.moments.with_scores(raw_scores)
    state.train_scores.append(float(raw_scores.mean()))
    scores = state.moments.standardise(raw_scores) if config.standardise_scores else raw_scores
    scores = scores - config.missing_eos_penalty * (~rollout.finished).float()

    # 3. Per-token rewards, advantages and returns.
    rewards = token_rewards(scores, kl, mask, kl_coef=state.kl_coef)
    advantages = gae(rewards, values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda)
    returns = rewards_to_go(rewards, mask, gamma=config.gamma)
    measured = {
        "objective/score": float(raw_scores.mean()),
        "objective/reward": float(rewards.sum(dim=1).mean()),
        "objective/kl": float(kl.sum(dim=1).mean()),
        "objective/kl_coef": state.kl_coef,
        "objective/entropy": -float(masked_mean(rollout.logprobs, mask)),  # an estimate that costs nothing
        "objective/length": float(rollout.lengths.float().mean()),
        "objective/eos_share": float(rollout.finished.float().mean()),
        "ppo/explained_variance": explained_variance(values, returns, mask),
    }
    return Experience(rollout, whiten(advantages, mask), returns, features, measured)


def learn(trainer: Trainer, experience: Experience, update: int, step_scale: float = 1.0) -> dict[str, float]:
    """The value model, then several passes in mini-batches, fewer when the policy has moved enough.

    A mini-batch's loss is a mean over its tokens, so neither the size of the micro-batches nor the order of
    the rows in them changes the gradient.
    """
    config, rollout = trainer.config, experience.rollout
    value_error = trainer.value_model.learn(experience.features, experience.returns[rollout.response_mask])
    factor = step_scale * min(1.0, update / WARM_UP_UPDATES) * (1.0 - (update - 1) / config.updates)
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    shuffle = generator_for(config.seed, update, "minibatches")
    totals, norms, steps = torch.zeros(len(_SUMS)), [], 0
    for _ in range(config.epochs):
        epoch, order = torch.zeros(len(_SUMS)), torch.randperm(len(rollout), generator=shuffle)
        for rows in torch.split(order, config.minibatch_size):
            with trainer.policy.unchanged():
                epoch += backward(trainer, experience, rows.tolist())
            norm = float(
                torch.nn.utils.clip_grad_norm_(trained_parameters(trainer.policy), config.max_grad_norm)
            )
            if norm == norm and norm != float("inf"):
                trainer.optimizer.step()
                norms.append(norm)
            steps += 1
            trainer.optimizer.zero_grad(set_to_none=True)
        totals += epoch
        if float(epoch[_SUMS.index("ppo/approx_kl")] / epoch[-1]) > config.epoch_kl_stop:
            break
    if len(norms) < steps:
        log.warning("update %d: %d of %d steps had no finite gradient", update, steps - len(norms), steps)
    means = (totals / totals[-1]).tolist()
    return {
        **dict(zip(_SUMS[:-1], means[:-1], strict=True)),
        "ppo/value_loss": value_error,
        "ppo/grad_norm": sum(norms) / max(len(norms), 1),
        "ppo/learning_rate": trainer.optimizer.param_groups[0]["lr"] if norms else 0.0,
    }


_SUMS = (
    "ppo/policy_loss",
    "ppo/clip_fraction",
    "ppo/approx_kl",
    "ppo/ratio",
    "tokens",
)
"""What `backward` adds up over tokens."""


def backward(trainer: Trainer, experience: Experience, rows: Sequence[int]) -> Tensor:
    """One mini-batch's gradient, micro-batch by micro-batch. Returns `_SUMS` over its tokens.

    With several processes each computes its share of the rows, and all receive the sums.
    """
    config, rollout, device = trainer.config, experience.rollout, trainer.policy.device
    tokens = int(rollout.lengths[rows].sum())
    sums = torch.zeros(len(_SUMS), device=device)  # read once: a GPU need not be waited for in between
    for index in trainer.group.batches(rollout.shortest_first(rows), config.micro_batch_size):
        part = rollout.select(index)
        mask = part.response_mask
        old_logprobs = part.logprobs[mask].to(device)  # (N,)
        advantages = experience.advantages[index, : mask.shape[1]][mask].to(device)  # (N,)
        new = evaluate(trainer.policy, part, config.temperature, with_entropy=config.entropy_coef > 0)
        losses = policy_loss(new.logprobs, old_logprobs, advantages, clip_range=config.clip_range)
        loss = losses.sum()
        if new.entropy is not None:
            loss = loss - config.entropy_coef * new.entropy.sum()
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            ratio = (new.logprobs - old_logprobs).exp()
            clipped = (ratio - 1).abs() > config.clip_range
            moved = kl_k3(old_logprobs, new.logprobs)
            columns = (losses, clipped, moved, ratio, torch.ones_like(ratio))
            sums += torch.stack([column.sum().float() for column in columns])
    trainer.group.sum_gradients(trained_parameters(trainer.policy))
    return trainer.group.sum(sums.cpu())


def look(trainer: Trainer, prompts: Sequence[Prompt], update: int, train_score: float) -> tuple[Look, Any]:
    """Answer the verification prompts with the same random numbers at every look, and measure the answers."""
    rollout, texts = trainer.respond(prompts, generator_for(trainer.config.seed, 0, "look"))
    scores = trainer.score(prompts, texts)
    kl = kl_k1(rollout.logprobs, trainer.ref_logprobs(rollout)).sum(dim=1)
    broken = [is_garbled(text) or is_repetitive(text) for text in texts]
    usable = [not bad for bad in broken]
    unfinished = [not done and fine for done, fine in zip(rollout.finished.tolist(), usable, strict=True)]
    found = Look(
        update=update,
        score=float(scores.mean()),
        score_deviation=float(scores.std(unbiased=False)),
        kl=float(kl.mean()),
        length=float(rollout.lengths.float().mean()),
        garbled=sum(broken) / len(broken),
        unfinished=sum(unfinished) / len(unfinished),
        entropy=-float(masked_mean(rollout.logprobs, rollout.response_mask)),
        train_score=train_score,
    )
    return found, list(zip(prompts, texts, scores.tolist(), strict=True))


def _take_look(trainer: Trainer, state: TrainingState, prompts: Sequence[Prompt]) -> None:
    """Look, remember the policy if it is the best so far, and show some answers."""
    train_score = sum(state.train_scores) / len(state.train_scores) if state.train_scores else float("nan")
    found, answers = look(trainer, prompts, state.update, train_score)
    state.looks.append(found)
    state.train_scores = []
    if len(state.looks) == 1 or is_best(state.looks, state.best_update, trainer.config):
        state.best_update = state.update
        state.best_weights = {name: t.clone() for name, t in trainer.policy.trainable_state().items()}
    trainer.metrics.log(
        state.update,
        **{
            "verify/score": found.score,
            "verify/length": found.length,
            "verify/kl": found.kl,
            "verify/garbled": found.unusable,
        },
    )
    for prompt, response, score in answers[:SHOWN_SAMPLES]:
        shown = {"prompt_id": prompt.id, "prompt": prompt.text, "response": response, "score": score}
        trainer.metrics.sample(state.update, **shown)
        state.samples.append({"update": state.update, **shown})


def _prompts_to_look_at(prompts: Sequence[Prompt]) -> list[Prompt]:
    times = -(-LEAST_LOOK // len(prompts))
    return (list(prompts) * times)[:MOST_LOOK]

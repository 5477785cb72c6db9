"""A run that hacks its reward, because it has no KL penalty and makes much too large steps: a guard ends it.

The embedded base model with all weights trained. The reward is brevity and nothing else: it rises while the
answers stop answering.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from scripts.make_base_model import WEIGHTS_DIR
from trainers.config import PPOConfig
from trainers.ppo import train_ppo
from trainers.records import Prompt
from trainers.run_dir import RunDir
from trainers.verification import StopReason

QUESTIONS = (
    "买多少钱可以包邮？", "怎么退货？", "密码忘了怎么办？", "耳机没有声音。",
    "When does my parcel arrive?", "How do I reset my password?", "Can I pay in instalments?", "Hello!",
)  # fmt: skip
GUARDS = set(get_args(StopReason)) - {"converged", "updates"}
FLOORS = ("length_collapse", "entropy_collapse")
"""Guards that end a run below their limit."""


def brevity(_prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def test_a_guard_ends_the_run_and_what_is_published_is_no_noise(tmp_path: Path) -> None:
    config = PPOConfig(
        base_model=str(WEIGHTS_DIR), reward_model="a:function", tuning="full", learning_rate=3e-4,
        kl_coef=0.0, epoch_kl_stop=1e9, rollouts=16, minibatch_size=4, micro_batch_size=4,
        max_response_tokens=32, verify_every=2, value_warm_up=8, updates=40, convergence_patience=40, seed=0,
    )  # fmt: skip
    prompts = [Prompt(f"p{number}", text) for number, text in enumerate(QUESTIONS)]
    result = train_ppo(config, RunDir(tmp_path), prompts, prompts, brevity)
    assert result["stop_reason"] in GUARDS and result["updates"] < config.updates
    assert result["stop_measured"] > result["stop_limit"] or result["stop_reason"] in FLOORS
    hacked = result["looks"][-1]
    published = next(look for look in result["looks"] if look["update"] == result["best_update"])
    assert hacked["score"] > result["reward_before"]  # the reward did rise
    unusable = [look["garbled"] + look["unfinished"] for look in (result["looks"][0], published)]
    assert published["kl"] <= config.kl_stop and unusable[1] <= unusable[0] + config.max_garbled

"""What can be measured: one module a subject, each with its `Measure`s. Imports no torch."""

from __future__ import annotations

from scripts.benchmark.measure import Measure
from scripts.benchmark.measures.candidates import CANDIDATES
from scripts.benchmark.measures.gpu import GPU
from scripts.benchmark.measures.growth import GROWTH
from scripts.benchmark.measures.ppo_to_reward import PPO_TO_REWARD
from scripts.benchmark.measures.ppo_update import PPO_ALL_LAYERS, PPO_FULL, PPO_UPDATE, PPO_VOCABULARY
from scripts.benchmark.measures.reward_model import REWARD_MODEL

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        PPO_UPDATE,
        PPO_ALL_LAYERS,
        PPO_FULL,
        PPO_VOCABULARY,
        PPO_TO_REWARD,
        REWARD_MODEL,
        CANDIDATES,
        GROWTH,
        GPU,
    )
}
"""By name, in the order of the table."""

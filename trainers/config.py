"""The configuration of each stage: frozen, validated, to and from JSON.

A stage reads nothing else: no environment, no globals. Derived values are properties.
`python -m trainers STAGE --help` prints every field with the doc line below it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

from trainers.address import is_url, require_address
from trainers.errors import ConfigError
from trainers.field_types import fits, in_words

Tuning = Literal["auto", "full", "lora"]
RankingLoss = Literal["pairs", "listwise"]
FREE_FIELDS = (
    "batch_size", "micro_batch_size", "threads", "gradient_checkpointing",
    "checkpoint_every", "reward_timeout_s",
)  # fmt: skip
"""May change while a run is interrupted: they decide how the work is done, not what comes out."""
MOST_THREADS = 1024
MOST_TOKENS = 1_000_000


def _require(condition: bool, field: str, value: object, needed: str) -> None:
    if not condition:
        raise ConfigError(f"`{field}` is `{value}`; needed is {needed}")


@dataclass(frozen=True)
class StageConfig:
    """What every stage has in common."""

    base_model: str
    """Local Hugging Face directory or hub name of the base model."""
    seed: int = 0
    """Seed of every random choice; the same seed gives the same run."""
    batch_size: int = 32
    """Sequences in one forward pass where memory allows (rollouts, scoring, generation)."""
    max_response_tokens: int = 128
    """Longest response; a longer one is cut and counts as not finished."""
    max_prompt_tokens: int = 256
    """Longest prompt; of a longer one the last tokens are kept."""
    threads: int = 0
    """CPU threads for torch; 0 takes what the machine has."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            _require(fits(getattr(self, name), kind), name, getattr(self, name), in_words(kind))
        _require(bool(self.base_model), "base_model", self.base_model, "a directory or hub name")
        _require(0 <= self.seed < 2**32, "seed", self.seed, f"0 to {2**32 - 1}")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        response, prompt = self.max_response_tokens, self.max_prompt_tokens
        _require(1 <= response <= MOST_TOKENS, "max_response_tokens", response, f"1 to {MOST_TOKENS}")
        _require(8 <= prompt <= MOST_TOKENS, "max_prompt_tokens", prompt, f"8 to {MOST_TOKENS}")
        _require(0 <= self.threads <= MOST_THREADS, "threads", self.threads, f"0 to {MOST_THREADS}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises: ConfigError: a field is unknown, missing, of another type or out of range."""
        fields = dataclasses.fields(cls)
        known = {field.name for field in fields}
        if unknown := set(data) - known:
            raise ConfigError(f"`{cls.__name__}` has no field {sorted(unknown)}; it has {sorted(known)}")
        required = {field.name for field in fields if field.default is dataclasses.MISSING}
        if missing := required - set(data):
            raise ConfigError(f"`{cls.__name__}` needs {sorted(missing)}, which the configuration lacks")
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: ConfigError: the file is missing or no JSON object."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"`{path}` cannot be read as a JSON object: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"`{path}` is a JSON {type(data).__name__}; needed is a JSON object")
        return cls.from_json(data)


@dataclass(frozen=True)
class GenerationConfig(StageConfig):
    """Candidates for ranking."""

    batch_size: int = 64
    """Sequences in one forward pass; a row costs a fifth less than among 32."""
    policies: tuple[str, ...] = ()
    """Directories of earlier policies to sample from as well as the base model, newest last."""
    policy_ids: tuple[str, ...] = ()
    """The models' ids, in the order of `policies`; written into each response."""
    candidates_per_prompt: int = 3
    """Candidates for each prompt, 2 to 4."""
    temperatures: tuple[float, ...] = (0.7, 1.0, 1.2)
    """Sampling temperatures to spread over."""
    max_similarity: float = 0.85
    """Two candidates more alike than this (0 to 1, by character n-grams) are near-duplicates."""
    max_attempts: int = 4
    """Rounds of regeneration before a fault is flagged instead of mended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        candidates = self.candidates_per_prompt
        _require(2 <= candidates <= 4, "candidates_per_prompt", candidates, "2 to 4")
        _require(len(self.policies) == len(self.policy_ids), "policy_ids", self.policy_ids, "one id a policy")
        _require(
            bool(self.temperatures) and all(0 < t <= 2 for t in self.temperatures),
            "temperatures", self.temperatures, "one or more, each above 0 and at most 2",
        )  # fmt: skip
        _require(0 < self.max_similarity <= 1, "max_similarity", self.max_similarity, "above 0, at most 1")
        _require(self.max_attempts >= 1, "max_attempts", self.max_attempts, "at least 1")


@dataclass(frozen=True)
class RewardConfig(StageConfig):
    """The reward model. `None` means: chosen from the data (the table in `trainers.reward`), and recorded."""

    tuning: Tuning = "auto"
    """Full fine-tuning, LoRA, or by model size."""
    loss: RankingLoss = "pairs"
    """`pairs`: Bradley-Terry over all pairs; `listwise`: Plackett-Luce over each annotator's ranking."""
    learning_rate: float | None = None
    """Step size of AdamW."""
    epochs: int | None = None
    """Passes over the rankings."""
    ensemble: int = 1
    """Score heads on the shared trunk; with 2 or more the score is their mean, and they can disagree."""
    gate_accuracy: float = 0.85
    """Held-out accuracy over pairs that the model must reach before PPO starts."""
    gate_margin: float = 0.10
    """Passed only if the interval's lower bound is at least the gate minus this."""
    lora_rank: int = 16
    """Rank of the adapter where LoRA is used."""
    ranking_decay: float = 0.8
    """Weight of a ranking for each round that it is older than the newest; 1 counts all rounds alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0.1 <= self.ranking_decay <= 1, "ranking_decay", self.ranking_decay, "0.1 to 1")
        _require(0.5 <= self.gate_accuracy <= 1, "gate_accuracy", self.gate_accuracy, "0.5 to 1")
        _require(0 <= self.gate_margin <= 0.5, "gate_margin", self.gate_margin, "0 to 0.5")
        _require(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "above 0",
        )
        _require(self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(1 <= self.ensemble <= 32, "ensemble", self.ensemble, "1 to 32")
        _require(self.lora_rank >= 1, "lora_rank", self.lora_rank, "at least 1")


def upper_half(layers: int) -> int:
    """How many of the top layers get adapters where nothing is said."""
    return -(-layers // 2)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(StageConfig):
    """PPO from a starting policy towards a reward."""

    reward_model: str
    """Directory of a reward model, `module:function`, or URL of a scorer; see docs/trainers.md."""
    reward_base_model: str = ""
    """Base of a reward model that is an adapter on another model than `base_model`; empty is `base_model`."""
    reward_timeout_s: float = 60.0
    """Seconds for one request to a scorer behind a URL."""
    start_policy: str = ""
    """Directory of the policy to start from, which is also the reference; empty is the base model."""
    tuning: Tuning = "auto"
    """Full fine-tuning or LoRA; `auto` is LoRA."""
    updates: int = 40
    """Most PPO updates; convergence or a guard usually stops earlier."""
    rollouts: int = 32
    """Responses sampled for each update."""
    epochs: int = 2
    """Passes over each batch of rollouts."""
    minibatch_size: int = 16
    """Responses for each optimiser step."""
    micro_batch_size: int = 16
    """Responses in one backward pass; smaller needs less memory and gives the same gradient."""
    gradient_checkpointing: bool | None = None
    """Compute layers again in the backward pass: less memory, slower; `None`: on a GPU from 1B parameters."""
    base_bits: int = 16
    """Bits of the frozen base's weights: 16, or 8 or 4 with the package `bitsandbytes`; needs adapters."""
    shard_base: bool = False
    """Spread the frozen base over torchrun's processes: slower, for one that fits on no single GPU."""
    learning_rate: float | None = None
    """Step size for the policy; `None`: LoRA 2e-4, full 1e-5; below 50M parameters 0.008 / rank and 1e-4."""
    value_warm_up: int = 64
    """Responses sampled before the first update, from which the value model alone learns."""
    lora_rank: int = 8
    """Rank of the adapter where LoRA is used."""
    trained_layers: int | None = None
    """How many of the top layers get adapters, what is below is computed once an update; `None`: half."""
    clip_range: float = 0.2
    """PPO's clip of the probability ratio; 0.15 where the style is unstable."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    gamma: float = 1.0
    """Discount per token."""
    gae_lambda: float = 0.95
    """GAE's λ."""
    temperature: float = 1.0
    """Sampling temperature; also divides the logits of policy and reference."""
    kl_coef: float = 0.5
    """Weight of the per-token KL penalty: what a nat costs, in deviations of the score."""
    kl_target: float | None = None
    """Target of the adaptive KL controller in nats a response; `None` keeps `kl_coef` fixed."""
    kl_horizon: int = 1000
    """Responses over which the adaptive controller acts."""
    kl_stop: float = 30.0
    """A batch whose mean KL to the reference is above this ends the run."""
    epoch_kl_stop: float = 0.1
    """An epoch whose approximate KL to the rollout policy (nats a token) is above this ends the update."""
    missing_eos_penalty: float = 1.0
    """Taken from the standardised score of a response that did not end by itself."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    disagreement_penalty: float = 0.0
    """Taken from a score for each unit of the reward model's heads' disagreement; needs `ensemble` heads."""
    standardise_scores: bool = True
    """Scores are standardised by running mean and deviation."""
    verify_every: int = 4
    """Updates between two looks at the verification prompts."""
    convergence_patience: int = 3
    """Looks without a better verification score after which the run has converged."""
    checkpoint_every: int = 4
    """Updates between two checkpoints."""
    max_garbled: float = 0.1
    """Growth of the share of repetitive or unfinished verification responses above which the run stops."""
    min_entropy_share: float = 0.1
    """Share of the first look's entropy on the verification prompts below which the run stops; 0 is never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("updates", "rollouts", "epochs", "minibatch_size", "micro_batch_size", "lora_rank",
                    "verify_every", "convergence_patience", "checkpoint_every", "kl_horizon")  # fmt: skip
        for name in positive:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        above_zero = (
            "clip_range",
            "temperature",
            "max_grad_norm",
            "reward_timeout_s",
            "kl_stop",
            "epoch_kl_stop",
        )
        for name in above_zero:
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("gamma", "gae_lambda", "min_entropy_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        _require(
            bool(self.reward_model),
            "reward_model",
            self.reward_model,
            "a directory, `module:function` or URL",
        )
        if is_url(self.reward_model):
            require_address(self.reward_model)
        _require(
            not (self.shard_base and self.tuning == "full"), "tuning", self.tuning, "`lora` with `shard_base`"
        )
        _require(self.base_bits in (4, 8, 16), "base_bits", self.base_bits, "16, 8 or 4")
        _require(
            self.base_bits == 16 or (self.tuning != "full" and not self.shard_base),
            "base_bits", self.base_bits, "16 with `tuning` `full` or with `shard_base`",
        )  # fmt: skip
        layers = self.trained_layers
        _require(layers is None or layers >= 1, "trained_layers", layers, "at least 1, or nothing")
        for name in ("kl_coef", "value_warm_up", "entropy_coef", "missing_eos_penalty", "max_garbled",
                     "disagreement_penalty"):  # fmt: skip
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(
            self.kl_target is None or self.kl_coef > 0, "kl_coef", self.kl_coef, "above 0 with a `kl_target`"
        )
        for name in ("learning_rate", "kl_target"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0, or null")
        _require(
            self.minibatch_size <= self.rollouts,
            "minibatch_size",
            self.minibatch_size,
            f"at most {self.rollouts}",
        )


@dataclass(frozen=True)
class CompareConfig(StageConfig):
    """Answers before and after, for blind review."""

    before: str = ""
    """Directory of the policy before; empty is the base model."""
    before_id: str = "base"
    """Its id."""
    after: str = ""
    """Directory of the policy after; empty is the base model."""
    after_id: str = ""
    """Its id."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy, what a user of the model would see."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.temperature <= 2, "temperature", self.temperature, "0 to 2")

"""What applying a piece of advice does, in words and in settings. Pure; `backend.actions` does it.

An action either is people's work, which the console links to, or changes settings of the workspace and starts
what uses them next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.advice_triggers import STABLE_CLIP, Numbers
from backend.measurements import Measurements

Starts = Literal[
    "",  # nothing: the next run uses the settings
    "ppo",  # PPO with the reward model that is there
    "generate",  # candidates of the prompts that nobody has ranked
    "training",  # the reward model, on the rankings that count now
    "promotion",
    "adjudication",
]

HIGHEST_SIMILARITY, LOWEST_SIMILARITY = 0.6, 0.3
"""Where answers begin to be variants of one (`trainers.spread`), and where hardly any pair is left."""
FEWEST_UPDATES = 4
"""A shorter run of PPO is never looked at."""
MOST_UPDATES, MOST_REVIEWS = 10**5, 1000

_NAMES: Mapping[str, tuple[str, str]] = {
    "clip_range": ("clip 范围", "clip range"),
    "ppo_updates": ("PPO 更新次数上限", "most PPO updates"),
    "ppo_learning_rate": ("PPO 学习率", "PPO learning rate"),
    "kl_coef": ("KL 系数", "KL coefficient"),
    "missing_eos_penalty": ("未结束回答的惩罚", "penalty for answers that do not end"),
    "max_similarity": ("候选回答相似度上限", "highest similarity of candidates"),
    "review_unseen": ("盲评中的新题目数", "unseen prompts of the review"),
}


def _nothing(_: Measurements, __: Numbers) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Action:
    """One row of the table of actions; docs/advice.md shows it."""

    id: str
    zh: str
    """What happens, after the change of settings; or what people do."""
    en: str
    starts: Starts = ""
    for_people: bool = False
    """Nothing that the backend could do: the console links to where people do it."""
    changes: Callable[[Measurements, Numbers], dict[str, float]] = field(default=_nothing, repr=False)
    """Settings that the workspace gets, with their new values."""

    def words(self, m: Measurements, numbers: Numbers) -> tuple[str, str]:
        """What applying it does now, in Chinese and in English."""
        changed = changed_words(
            {name: (getattr(m.settings, name), value) for name, value in self.changes(m, numbers).items()}
        )
        zh, en = changed
        return f"{zh}。{self.zh}" if zh else self.zh, f"{en[0].upper()}{en[1:]}. {self.en}" if en else self.en


def changed_words(changed: Mapping[str, tuple[Any, Any]]) -> tuple[str, str]:
    """Settings with the value before and the one after, in Chinese and in English."""
    zh, en = (
        ", ".join(
            f"{_NAMES[name][place]} {_value(name, old, place)} → {new:g}"
            for name, (old, new) in changed.items()
        )
        for place in (0, 1)
    )
    return zh.replace(", ", "，"), en


def _value(name: str, value: float, place: int) -> str:
    if name == "ppo_learning_rate" and not value:
        return ("自动", "automatic")[place]
    return f"{value:g}"


def _lower_clip(m: Measurements, _: Numbers) -> dict[str, float]:
    more = min(MOST_UPDATES, math.ceil(1.5 * m.settings.ppo_updates))
    return {"clip_range": STABLE_CLIP, "ppo_updates": more}


def _raise_kl(m: Measurements, _: Numbers) -> dict[str, float]:
    return {"kl_coef": min(100.0, max(0.1, 2 * m.settings.kl_coef))}


def _smaller_steps(m: Measurements, numbers: Numbers) -> dict[str, float]:
    """Half of what was used; a run that did not note it gets a higher KL coefficient instead."""
    rate = m.ppo.get("learning_rate")
    return {"ppo_learning_rate": float(f"{rate / 2:.3g}")} if rate else _raise_kl(m, numbers)


def _dearer_ending(m: Measurements, _: Numbers) -> dict[str, float]:
    return {"missing_eos_penalty": min(100.0, max(1.0, 2 * m.settings.missing_eos_penalty))}


def _fewer_updates(_: Measurements, numbers: Numbers) -> dict[str, float]:
    return {"ppo_updates": max(FEWEST_UPDATES, numbers["best"] // 2)}


def _more_spread(m: Measurements, _: Numbers) -> dict[str, float]:
    stricter = round(min(HIGHEST_SIMILARITY, m.settings.max_similarity - 0.1), 2)
    lowest = min(LOWEST_SIMILARITY, m.settings.max_similarity)
    return {"max_similarity": max(lowest, stricter)}


def _larger_review(m: Measurements, numbers: Numbers) -> dict[str, float]:
    return {"review_unseen": min(MOST_REVIEWS, m.settings.review_unseen + numbers["needed"])}


PPO_AGAIN = (
    "从当前模型重新运行 PPO，结束后再次盲评。",
    "PPO runs again from the serving model, then a review.",
)

ACTIONS: Mapping[str, Action] = {
    action.id: action
    for action in (
        Action("promote", "启用新模型。", "The new model serves from now on.", "promotion"),
        Action("lower_clip", *PPO_AGAIN, "ppo", changes=_lower_clip),
        Action("smaller_steps", *PPO_AGAIN, "ppo", changes=_smaller_steps),
        Action("raise_kl", *PPO_AGAIN, "ppo", changes=_raise_kl),
        Action("dearer_ending", *PPO_AGAIN, "ppo", changes=_dearer_ending),
        Action("fewer_updates", *PPO_AGAIN, "ppo", changes=_fewer_updates),
        Action(
            "more_spread",
            "为还没有人排序、且候选回答相似或无法使用的题目重新生成；已有排序的任务不变。",
            "Prompts that nobody has ranked and whose candidates are alike or unusable get new ones; ranked"
            " tasks stay as they are.",
            "generate",
            changes=_more_spread,
        ),
        Action(
            "generate_again",
            "为没有可用候选回答的题目重新生成。",
            "Prompts without usable candidates get new ones.",
            "generate",
        ),
        Action(
            "start_training",
            "用现在计入的排序重新训练奖励模型。",
            "The reward model is trained again on the rankings that count now.",
            "training",
        ),
        Action(
            "larger_review",
            "从下一次盲评起生效。",
            "The next review is this much larger.",
            changes=_larger_review,
        ),
        Action(
            "adjudicate",
            "请另一位标注者把分歧的题各再排一次。",
            "One more annotator is asked to rank each divisive task.",
            "adjudication",
        ),
        Action("rank_more", "在排序项目中排序。", "Rank in the ranking project.", for_people=True),
        Action(
            "show_tasks",
            "查看排序项目的“分歧 Disagreement”标签页。",
            'See the tab "分歧 Disagreement" of the ranking project.',
            for_people=True,
        ),
        Action(
            "import_prompts",
            "在题目项目中导入。",
            "Import in the prompts project.",
            for_people=True,
        ),
    )
}

"""What to do next, each with the number that says so. Pure: measurements in, sentences out.

A rule is a function that looks at the measurements and gives one piece of advice or none. The console and the
report show them in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from backend.data_report import quoted
from trainers.acquisition import Aim

FEW_PROMPTS = 60
LOW_AGREEMENT = 0.70
STRONG_CORRELATION = 0.8
ALIKE_SHARE = 0.05
VARIANTS_SHARE = 0.2
ENOUGH_JUDGEMENTS = 50
APART_GAP = 0.2
LOW_CONSISTENCY = 0.8
FEWEST_CONTESTED = 3
FAR_SHARE = 0.15
FEWEST_FAR = 3
NAMED = 3
SUSPICIOUS_SHARE = 0.2
UNSEEN_GAP = 0.2
REMOVED_SHARE = 0.05
GARBLED_SHARE = 0.02
FIRST_SERVED: Mapping[Aim, tuple[str, str]] = {
    "learn": ("模型最拿不准的题目", "those whose answers the model can hardly order"),
    "measure": ("用来检验它的题目", "those that measure it"),
    "both": ("最有用的题目", "the most useful"),
}
UNSTABLE_STOPS = frozenset(
    {
        "kl",
        "length_collapse",
        "length_explosion",
        "garbled",
        "entropy_collapse",
        "over_optimisation",
        "diverged",
    }
)


@dataclass(frozen=True)
class Removed:
    """Rankings that models in use depend on and that do not count any more as they were."""

    reward: int = 0
    """Behind the newest reward model."""
    of_reward: int = 0
    serving: int = 0
    """Behind the serving policy, its ancestors' included."""
    of_serving: int = 0
    clean: str = "base"
    """The newest of the serving policy and its ancestors that depends on none of them."""


@dataclass(frozen=True)
class Measurements:
    """What the rules look at; results are those of the stages' `result.json`, empty if not run."""

    prompts: int = 0
    rankings: int = 0
    suspicious: int = 0
    gate_accuracy: float = 0.85
    clip_range: float = 0.2
    generate: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    comparisons_wanted: int = 0
    """Review prompts that the settings ask for."""
    promoted: bool = False
    """The round's policy serves already."""
    consistency: Mapping[str, Any] = field(default_factory=dict)
    """`trainers.agreement.SelfConsistency` of the tasks that were served twice."""
    prompts_named: Mapping[str, str] = field(default_factory=dict)
    """Texts of the prompts that the advice names."""
    rank_next: Sequence[str] | None = None
    """Prompts that help the reward model through its gate, the most useful first; none if nobody looked."""
    rank_aim: Aim = "both"
    """What these are for."""
    removed: Removed = field(default_factory=Removed)


@dataclass(frozen=True)
class Advice:
    """One thing to do."""

    id: str
    zh: str
    en: str
    action: str | None = None


def advise(measured: Measurements) -> list[Advice]:
    """Everything worth doing now, the most useful first."""
    return [advice for rule in _RULES if (advice := rule(measured)) is not None]


def _promote(m: Measurements) -> Advice | None:
    if m.verdict.get("verdict") != "better" or m.promoted or _garbled(m):
        return None
    rate, p_value = m.verdict["win_rate"], m.verdict["p_value"]
    p = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    return Advice(
        "promote",
        f"新模型的盲评胜率为 {rate:.0%}（{p}）：可以启用它，下一轮候选回答将由它生成。",
        f"The new model wins {rate:.0%} of the blind review ({p}): promote it, and the next round's"
        " candidates come from it.",
        "promote",
    )


def _review_more(m: Measurements) -> Advice | None:
    needed = m.verdict.get("reviews_needed") or 0
    if m.verdict.get("verdict") != "not_enough_evidence" or not needed:
        return None
    judged, p = m.verdict["judged"], m.verdict["p_value"]
    return Advice(
        "review_more",
        f"{judged} 组盲评还不足以下结论（p = {p:.2f}）：大约还需要 {needed} 组。请增加盲评题数后再训练一轮。",
        f"{judged} blind reviews do not settle it (p = {p:.2f}): about {needed} more would. Raise the number"
        " of review prompts and train another round.",
    )


def _review_few(m: Measurements) -> Advice | None:
    made = m.compare.get("comparisons")
    if made is None or made >= m.comparisons_wanted:
        return None
    return Advice(
        "review_few",
        f"盲评只有 {made} 组（设置要求 {m.comparisons_wanted} 组），因为题目不够：请导入更多题目。",
        f"The blind review has only {made} comparisons of {m.comparisons_wanted} asked for, because there are"
        " too few prompts: import more.",
        "import_prompts",
    )


def _rank_more(m: Measurements) -> Advice | None:
    if m.reward.get("outcome") != "not_enough_evidence":
        return None
    accuracy, needed = m.reward.get("accuracy"), m.reward.get("rankings_needed", 20)
    shown = "—" if accuracy is None else f"{accuracy:.0%}"
    low, high = m.reward.get("interval") or (0.0, 1.0)
    which_zh, which_en = _which_tasks(m)
    return Advice(
        "rank_more",
        f"奖励模型在未见题目上的准确率为 {shown}（区间 {low:.0%}–{high:.0%}），还无法判断是否达到"
        f" {m.gate_accuracy:.0%}：请再排序 {needed} 题{which_zh}。",
        f"The reward model's held-out accuracy is {shown} (interval {low:.0%} to {high:.0%}), which does not"
        f" settle whether it reaches {m.gate_accuracy:.0%}: rank {needed} more tasks{which_en}.",
        "rank_more",
    )


def _which_tasks(m: Measurements) -> tuple[str, str]:
    """Which tasks Label Studio serves first, or that there are none to serve."""
    if m.rank_next is None:
        return "", ""
    if not m.rank_next:
        return (
            "；这样的题目已经排完，请先导入新题目",
            "; none that help are left, so import more prompts first",
        )
    zh, en = FIRST_SERVED[m.rank_aim]
    named = quoted(m.rank_next[:NAMED], m.prompts_named)
    return f"，Label Studio 会先给出{zh}，如 {named}", f"; Label Studio serves {en} first, such as {named}"


def _reward_low(m: Measurements) -> Advice | None:
    if m.reward.get("outcome") != "failed" or m.reward.get("accuracy") is None:
        return None
    accuracy, needed = m.reward["accuracy"], m.reward.get("rankings_needed", 50)
    which_zh, which_en = _which_tasks(m)
    return Advice(
        "reward_low",
        f"奖励模型的准确率只有 {accuracy:.0%}（要求 {m.gate_accuracy:.0%}）：请统一排序标准，"
        f"再排序 {needed} 题{which_zh}。",
        f"The reward model reaches only {accuracy:.0%} (needed is {m.gate_accuracy:.0%}): agree on what good"
        f" means, then rank {needed} more tasks{which_en}.",
        "rank_more",
    )


def _agreement_low(m: Measurements) -> Advice | None:
    agreement = m.reward.get("agreement")
    if agreement is None or agreement >= LOW_AGREEMENT:
        return None
    return Advice(
        "agreement_low",
        f"标注者两两之间只有 {agreement:.0%} 一致（建议至少 {LOW_AGREEMENT:.0%}）："
        "请一起讨论几道分歧最大的题，写下统一的标准。",
        f"Two annotators agree in only {agreement:.0%} of the pairs (at least {LOW_AGREEMENT:.0%} is"
        " advisable): discuss the tasks that divide you and write the rule down.",
    )


def _apart(m: Measurements) -> Advice | None:
    """One annotator agrees with the rest far less than the others do."""
    members = [
        member
        for member in (m.reward.get("team") or {}).get("members", ())
        if member["judgements"] >= ENOUGH_JUDGEMENTS
    ]
    if len(members) < 3:
        return None
    *_, lowest = sorted(members, key=lambda member: -member["rate"])
    usual = median(member["rate"] for member in members)
    if usual - lowest["rate"] < APART_GAP:
        return None
    return Advice(
        "annotator_apart",
        f"标注者 {lowest['annotator']} 与其他人只有 {lowest['rate']:.0%} 一致（一般为 {usual:.0%}）："
        "请和他核对排序标准。",
        f"Annotator {lowest['annotator']} agrees with the others in only {lowest['rate']:.0%} of the pairs"
        f" ({usual:.0%} is usual here): go through the guideline together.",
    )


def _inconsistent(m: Measurements) -> Advice | None:
    """Below this nobody can agree with others either."""
    if m.consistency.get("judgements", 0) < ENOUGH_JUDGEMENTS or m.consistency["rate"] >= LOW_CONSISTENCY:
        return None
    rate, prompts = m.consistency["rate"], m.consistency["prompts"]
    return Advice(
        "self_inconsistent",
        f"同一个人对同一题排两次，只有 {rate:.0%} 的判断相同（{prompts} 题）："
        "请把标准写得更明确，或让候选回答的差别更大。",
        f"Ranking the same task twice, people repeat only {rate:.0%} of their judgements ({prompts} tasks):"
        " make the guideline more definite, or the answers more different.",
    )


def _contested(m: Measurements) -> Advice | None:
    team = m.reward.get("team") or {}
    contested, shared = team.get("contested_prompts", 0), team.get("shared_prompts", 0)
    if contested < FEWEST_CONTESTED:
        return None
    return Advice(
        "adjudicate",
        f"{contested} / {shared} 道多人排序的题分歧多于一致（排序项目的“分歧”标签页）："
        "`python -m backend adjudicate` 会请另一位标注者再排一次。",
        f"On {contested} of {shared} tasks that several ranked, people disagree more than they agree (tab"
        ' "Disagreement" of the ranking project): `python -m backend adjudicate` asks one more annotator.',
    )


def _length_bias(m: Measurements) -> Advice | None:
    correlation = m.reward.get("length_correlation")
    if correlation is None or abs(correlation) < STRONG_CORRELATION:
        return None
    zh, en = ("越长", "longer") if correlation > 0 else ("越短", "shorter")
    return Advice(
        "length_bias",
        f"奖励几乎只看长度：{zh}得分越高（相关系数 {correlation:.2f}）。"
        "如果这不是本意，请补充一些长度相近的排序。",
        f"The reward follows the length, {en} is better (correlation {correlation:.2f}). If you mean more"
        " than that, rank answers of similar length.",
    )


def _unstable(m: Measurements) -> Advice | None:
    reason = m.ppo.get("stop_reason")
    if reason not in UNSTABLE_STOPS or m.clip_range <= 0.15:
        return None
    measured, limit = m.ppo["stop_measured"], m.ppo["stop_limit"]
    return Advice(
        "clip_lower",
        f"PPO 被保护机制停下（{reason}：{measured:.3g}，界限 {limit:.3g}）：风格不稳定，"
        f"请把 clip 从 {m.clip_range:g} 降到 0.15。",
        f"A guard stopped PPO ({reason}: {measured:.3g}, limit {limit:.3g}): the style is unstable, lower the"
        f" clip range from {m.clip_range:g} to 0.15.",
        "clip_lower",
    )


def _unseen_worse(m: Measurements) -> Advice | None:
    seen, unseen = m.verdict.get("win_rate_seen"), m.verdict.get("win_rate_unseen")
    if seen is None or unseen is None or seen - unseen < UNSEEN_GAP:
        return None
    far = (m.reward.get("coverage") or {}).get("far_prompts", ())[:NAMED]
    named = quoted(far, m.prompts_named)
    zh, en = (f"，如 {named}", f", such as {named}") if far else ("", "")
    return Advice(
        "unseen_worse",
        f"新题目的胜率（{unseen:.0%}）明显低于训练过的题目（{seen:.0%}）：请补充这些场景的题目{zh}。",
        f"On prompts never seen it wins {unseen:.0%}, on seen ones {seen:.0%}: add prompts of the scenarios"
        f" that it does not know{en}.",
        "import_prompts",
    )


def _scenario_thin(m: Measurements) -> Advice | None:
    scenarios = (m.reward.get("coverage") or {}).get("scenarios", ())
    thin = [scenario for scenario in scenarios if scenario["thin"]]
    if not thin:
        return None
    named = quoted([scenario["prompt_id"] for scenario in thin[:NAMED]], m.prompts_named)
    fewest = thin[0]["rankings"]
    return Advice(
        "scenario_thin",
        f"{len(thin)} 类场景的排序很少（最少的只有 {fewest} 个），如 {named}：请补充这类题目并排序。",
        f"{len(thin)} scenarios have few rankings (the thinnest {fewest}), such as {named}: import and rank"
        " more prompts like these.",
        "import_prompts",
    )


def _unseen_far(m: Measurements) -> Advice | None:
    coverage = m.reward.get("coverage") or {}
    far, unseen = coverage.get("far", 0), coverage.get("unseen", 0)
    if far < FEWEST_FAR or far / unseen <= FAR_SHARE:
        return None
    named = quoted(coverage["far_prompts"][:NAMED], m.prompts_named)
    return Advice(
        "unseen_far",
        f"{far} / {unseen} 条新题目与训练过的题目都不相近，如 {named}：请补充这些场景的题目。",
        f"{far} of the {unseen} unseen prompts are like none that was learned from, such as {named}: import"
        " prompts of these scenarios.",
        "import_prompts",
    )


def _alike(m: Measurements) -> Advice | None:
    alike = (m.generate.get("flagged") or {}).get("near_duplicate", 0)
    candidates = m.generate.get("candidates") or 0
    if not candidates or alike / candidates <= ALIKE_SHARE:
        return None
    return Advice(
        "candidates_alike",
        f"{alike / candidates:.0%} 的候选回答过于相似（{alike} / {candidates}）：请提高温度差异后重新生成。",
        f"{alike / candidates:.0%} of the candidates are too alike ({alike} of {candidates}): generate again"
        " with more spread.",
    )


def _variants(m: Measurements) -> Advice | None:
    spread = m.generate.get("spread") or {}
    variants, prompts = spread.get("alike_prompts", 0), spread.get("prompts", 0)
    if not prompts or variants / prompts <= VARIANTS_SHARE:
        return None
    return Advice(
        "candidates_variants",
        f"{variants / prompts:.0%} 的题目（{variants} / {prompts}）的候选回答大同小异，排序能教的很少："
        "请加大温度和风格的差异后重新生成。",
        f"The answers to {variants / prompts:.0%} of the prompts ({variants} of {prompts}) are variants of"
        " one another, so ranking them teaches little: generate again with a clearer difference.",
    )


def _garbled(m: Measurements) -> Advice | None:
    garbled = m.compare.get("garbled_after")
    if garbled is None or garbled <= GARBLED_SHARE or garbled * m.compare["comparisons"] < 1.5:
        return None  # a single answer may be chance
    return Advice(
        "garbled",
        f"新模型有 {garbled:.1%} 的回答是乱码或重复：不要启用它；提高 KL 系数后再训练。",
        f"{garbled:.1%} of the new model's answers are garbled or repetitive: do not promote it; raise the"
        " KL coefficient and train again.",
    )


def _suspicious(m: Measurements) -> Advice | None:
    if not m.rankings or m.suspicious / m.rankings <= SUSPICIOUS_SHARE:
        return None
    return Advice(
        "suspicious",
        f"{m.suspicious} / {m.rankings} 个排序是几秒内按原顺序提交的：请提醒标注者先读完再提交。",
        f"{m.suspicious} of {m.rankings} rankings were submitted within seconds in the displayed order: ask"
        " the annotators to read first.",
    )


def _retrain(m: Measurements) -> Advice | None:
    """The reward model learned from rankings that are gone or were edited; training again leaves them out."""
    removed = m.removed
    if not removed.reward:
        return None
    return Advice(
        "retrain",
        f"奖励模型学过的 {removed.of_reward} 个排序中，有 {removed.reward} 个已删除、修改或不再计入："
        "请重新训练（`python -m backend train`），新模型不再用到它们。",
        f"{removed.reward} of the {removed.of_reward} rankings that the reward model learned from were"
        " deleted, edited or excluded since: train again (`python -m backend train`), and the new model is"
        " without them.",
        "start_training",
    )


def _retrain_from(m: Measurements) -> Advice | None:
    """The serving policy carries removed rankings on, whatever is trained from it. A few do not matter."""
    removed = m.removed
    if not removed.of_serving or removed.serving / removed.of_serving <= REMOVED_SHARE:
        return None
    return Advice(
        "retrain_from",
        f"当前模型所依赖的 {removed.of_serving} 个排序中，有 {removed.serving} 个已删除、修改或不再计入，"
        f"由它继续训练会带着它们的影响：`python -m backend train --from {removed.clean}` "
        "会从不依赖它们的最新模型重新训练。",
        f"{removed.serving} of the {removed.of_serving} rankings behind the serving policy were deleted,"
        " edited or excluded since, and what is trained from it carries them on:"
        f" `python -m backend train --from {removed.clean}` starts from the newest one without them.",
    )


def _few_prompts(m: Measurements) -> Advice | None:
    if not m.prompts or m.prompts >= FEW_PROMPTS:
        return None
    return Advice(
        "few_prompts",
        f"只有 {m.prompts} 条题目：100 到 200 条才足以训练并验证。",
        f"There are only {m.prompts} prompts: 100 to 200 are enough to train and to check.",
        "import_prompts",
    )


_RULES: tuple[Callable[[Measurements], Advice | None], ...] = (
    _promote, _garbled, _review_more, _review_few, _reward_low, _rank_more, _agreement_low, _inconsistent,
    _contested, _apart, _unstable, _unseen_worse, _unseen_far, _scenario_thin, _alike, _variants,
    _length_bias, _suspicious, _retrain, _retrain_from, _few_prompts,
)  # fmt: skip

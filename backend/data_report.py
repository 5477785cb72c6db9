"""What a report says about the data: the team's agreement, the candidates, the scenarios.

Pure: the stages' results in, rows of (Chinese, English, value) out. Values may hold prompts; whoever shows
them escapes them. What was not measured has no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.people import shown

Row = tuple[str, str, str]

MOST_SHOWN = 8
"""Annotators, and pairs of them, that are shown: those who agree least."""
MOST_SCENARIOS = 3
_LONGEST_PROMPT = 40
_LANGUAGES = {"zh": "中文 Chinese", "en": "英文 English"}


@dataclass(frozen=True)
class Data:
    """What a round's data were found to be."""

    rankings: int = 0
    suspicious: int = 0
    spread: Mapping[str, Any] = field(default_factory=dict)
    """`trainers.spread.Spread` of the candidates of all prompts."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    """The round's result of the reward stage."""
    team: Mapping[str, Any] = field(default_factory=dict)
    """`trainers.agreement.Agreement` of what the reward model was trained on, or before that of all."""
    consistency: Mapping[str, Any] = field(default_factory=dict)
    """`trainers.agreement.SelfConsistency` of the tasks that were served twice."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts of the prompts that the results name (`named_prompts`)."""
    people: Mapping[int, str] = field(default_factory=dict)
    """Names of the annotators (`backend.people`)."""
    depends_on: int = 0
    """Rankings that the round's model depends on, its ancestors' included."""
    removed: int = 0
    """Those of them that do not count any more as they were."""


def named_prompts(reward: Mapping[str, Any]) -> set[str]:
    """Ids of the prompts that a reward result names."""
    coverage = reward.get("coverage") or {}
    scenarios = {scenario["prompt_id"] for scenario in coverage.get("scenarios", ())}
    return scenarios | set(coverage.get("far_prompts", ()))


def data_rows(data: Data) -> list[Row]:
    """The section "Data" of the report."""
    return [
        *_dependence_rows(data),
        *_agreement_rows(data.team, data.people),
        *_consistency_rows(data.consistency, data.people),
        *_suspicious_rows(data),
        *_spread_rows(data.spread),
        *_coverage_rows(data.reward.get("coverage") or {}, data.prompts),
    ]


def quoted(prompt_ids: Iterable[str], prompts: Mapping[str, str]) -> str:
    """Prompts as people recognise them: the beginning of each."""
    return ", ".join(f"“{_cut(prompts.get(prompt_id, prompt_id))}”" for prompt_id in prompt_ids)


def _dependence_rows(data: Data) -> list[Row]:
    rows: list[Row] = []
    rounds = (data.reward.get("chosen") or {}).get("rounds") or ()
    if len(rounds) > 1:
        shown = ", ".join(f"#{own['round']}: {own['rankings']} × {own['weight']:.2g}" for own in rounds)
        rows.append(("每轮的排序及其权重", "rankings of each round, and their weight", shown))
    if data.removed:
        shown = f"{data.removed} / {data.depends_on}"
        rows.append(("模型依赖的排序中已删除、修改或不再计入的",
                     "rankings behind the model that are gone or changed", shown))  # fmt: skip
    return rows


def _agreement_rows(team: Mapping[str, Any], people: Mapping[int, str]) -> list[Row]:
    if not team.get("shared_prompts"):
        return []
    judged = f"{team['judgements']} 次比较 judgements, {team['shared_prompts']} 题 prompts"
    alpha, w = _number(team["krippendorff_alpha"]), _number(team["kendall_w"])
    rows = [
        ("两位标注者一致", "two annotators agree", f"{_agrees(team)} ({judged})"),
        ("Krippendorff α（1 为完全一致，0 为随机）", "Krippendorff's α (1 perfect, 0 chance)", alpha),
        ("Kendall W（每题）", "Kendall's W (a prompt)", w),
        ("分歧多于一致的题目", "prompts with more disagreement than agreement",
         f"{team['contested_prompts']} / {team['shared_prompts']}"),
    ]  # fmt: skip
    if len(team["members"]) > 2:
        rows += [
            ("各标注者与其余人一致", "each annotator and the rest",
             _least(team["members"], ("annotator",), people)),
            ("每两位标注者", "every two annotators", _least(team["pairs"], ("first", "second"), people)),
        ]  # fmt: skip
    return rows


def _consistency_rows(consistency: Mapping[str, Any], people: Mapping[int, str]) -> list[Row]:
    if not consistency.get("judgements"):
        return []
    each = _least(consistency["annotators"], ("annotator",), people)
    value = f"{_agrees(consistency)} ({consistency['prompts']} 题 prompts); {each}"
    return [("同一人再次排序", "the same person again", value)]


def _least(compared: Iterable[Mapping[str, Any]], who: Sequence[str], people: Mapping[int, str]) -> str:
    """Those who agree least, first; who shares no judgement is left out. `who` are the fields with people."""
    judged = sorted((own for own in compared if own["judgements"]), key=lambda own: own["rate"])
    named = (" – ".join(shown(own[field], people) for field in who) for own in judged)
    lines = [
        f"{name}: {_agrees(own)}, {own['prompts']} 题 prompts"
        for name, own in zip(named, judged, strict=True)
    ]
    return "; ".join([*lines[:MOST_SHOWN], *(["…"] if len(lines) > MOST_SHOWN else [])]) or "—"


def _agrees(own: Mapping[str, Any]) -> str:
    rate = "—" if own["rate"] is None else f"{own['rate']:.0%}"
    return f"{rate}, τ {_number(own['kendall_tau'])}"


def _suspicious_rows(data: Data) -> list[Row]:
    if not data.rankings:
        return []
    shown = f"{data.suspicious} / {data.rankings}"
    return [("几秒内按原顺序提交的排序", "rankings submitted at once in the displayed order", shown)]


def _spread_rows(spread: Mapping[str, Any]) -> list[Row]:
    if not spread.get("prompts"):
        return []
    prompts = spread["prompts"]
    lengths = [
        f"{_LANGUAGES[language]} {own['tenth']:.0f} – {own['median']:.0f} – {own['ninetieth']:.0f}"
        for language, own in spread["lengths"].items()
    ]
    return [
        ("同题候选回答的相似度（0 到 1）", "likeness of a prompt's answers (0 to 1)",
         f"{spread['similarity']:.2f}; 大同小异 variants of one: {spread['alike_prompts']} / {prompts}"),
        ("只有一种风格的题目", "prompts with one style only", f"{spread['one_style_prompts']} / {prompts}"),
        ("最长与最短回答之比", "longest to shortest answer", f"{spread['length_ratio']:.1f} : 1"),
        ("回答字符数（10% – 中位 – 90%）", "characters an answer (10 % – median – 90 %)", "; ".join(lengths)),
        ("与题目语言不同的回答", "answers not in the prompt's language",
         f"{spread['other_language']} / {spread['answers']}"),
        *_policy_rows(spread),
    ]  # fmt: skip


def _policy_rows(spread: Mapping[str, Any]) -> list[Row]:
    """Who wrote the candidates, from the second round on."""
    policies: Mapping[str, int] = spread.get("policies") or {}
    if len(policies) < 2:
        return []
    each = ", ".join(f"{name} {number}" for name, number in sorted(policies.items()))
    shown = f"{each}; 混合的题目 mixed prompts: {spread['mixed_prompts']} / {spread['prompts']}"
    return [("各模型写的候选回答", "answers by the model that wrote them", shown)]


def _coverage_rows(coverage: Mapping[str, Any], prompts: Mapping[str, str]) -> list[Row]:
    rows: list[Row] = []
    scenarios: Sequence[Mapping[str, Any]] = coverage.get("scenarios") or ()
    if len(scenarios) > 1:
        fewest = [
            f"{quoted([own['prompt_id']], prompts)}: {own['rankings']} 个排序 rankings"
            for own in scenarios[:MOST_SCENARIOS]
        ]
        zh = f"排序最少的场景（共 {len(scenarios)} 类）"
        rows.append((zh, f"scenarios with the fewest rankings, of {len(scenarios)}", "; ".join(fewest)))
    if coverage.get("unseen"):
        shown = f"{coverage['far']} / {coverage['unseen']}"
        if coverage["far_prompts"]:
            shown += f": {quoted(coverage['far_prompts'][:MOST_SCENARIOS], prompts)}"
        rows.append(("远离所有训练题目的新题目", "unseen prompts far from all learned ones", shown))
    return rows


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_PROMPT else line[:_LONGEST_PROMPT] + "…"

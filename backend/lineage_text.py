"""A lineage as people read it in a terminal. Pure; Chinese and English side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from backend.lineage import Ancestor, Dependence, Fate, Learned, Lineage
from backend.people import shown

FATES: dict[Fate, str] = {
    "active": "不变 unchanged",
    "edited": "已修改 edited",
    "deleted": "已删除 deleted",
    "excluded": "标注者已排除 annotator excluded",
    "superseded": "已重新排序 ranked again",
    "cancelled": "已跳过 skipped",
    "malformed": "无法读取 unreadable",
    "repeat": "重复任务 of a repeated task",
}


def to_text(lineage: Lineage, people: Mapping[int, str]) -> str:
    """Every model with how it was made, then every ranking, those that changed first.

    Args:
        people: names of the annotators.
    """
    lines = [line for model in lineage.models for line in _model(model)]
    fates = Counter(ranking.fate for ranking in lineage.rankings)
    shown = ", ".join(f"{number} {FATES[fate]}" for fate, number in fates.most_common())
    lines.append(f"{len(lineage.rankings)} 个排序 rankings: {shown}")
    lines += [
        _ranking(ranking, people)
        for ranking in sorted(lineage.rankings, key=lambda own: (own.fate == "active", own.annotation))
    ]
    return "\n".join(lines) + "\n"


def dependence_words(dependence: Dependence) -> tuple[str, str]:
    """How much a model depends on, and how much of that is not as it was."""
    zh, en = f"依赖 {dependence.rankings} 个排序", f"depends on {dependence.rankings} rankings"
    if dependence.removed:
        zh += f"，其中 {dependence.removed} 个已删除、修改或不再计入"
        en += f", {dependence.removed} of them gone or changed"
    return zh, en


def _model(model: Ancestor) -> list[str]:
    made = datetime.fromtimestamp(model.created).strftime("%Y-%m-%d %H:%M:%S")
    head = f"{model.id} ({model.kind}{', 使用中 serving' if model.serving else ''})"
    origin = f"来自 from: {model.parent}"
    if model.reward_model:
        origin += f"   奖励模型 reward model: {model.reward_model}"
    return [
        head,
        f"  轮次 round: {model.round_id}   运行 run: {model.run_id}   {made}",
        f"  基础模型 base model: {model.base_model}",
        f"  {origin}",
        f"  配置 configuration: {', '.join(f'{name}={value}' for name, value in model.config.items())}",
        f"  清单 manifest: sha256 {model.manifest_sha256}",
        f"  {' · '.join(dependence_words(model.dependence))}",
        "",
    ]


def _ranking(ranking: Learned, people: Mapping[int, str]) -> str:
    return (
        f"  #{ranking.annotation}  标注者 annotator {shown(ranking.annotator, people)}"
        f"  题目 prompt {ranking.prompt_id}  {ranking.result_hash}  第 {ranking.round} 轮 round"
        f"  {', '.join(ranking.models)}  {FATES[ranking.fate]}"
    )

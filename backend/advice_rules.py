"""The rules of advice as one table, the most useful first. Pure.

docs/advice.md and docs/advice.zh-CN.md are written from it (`python -m scripts.advice_pages`).
`backend.advice_triggers` says when a rule fires, `backend.advice_actions` what applying it does;
`backend.advice` makes the sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend import advice_triggers as when
from backend.advice_triggers import Numbers
from backend.measurements import Measurements


@dataclass(frozen=True)
class Rule:
    """One row of the table. Placeholders in braces are the numbers of `fires`.

    `{such_as}` names prompts, `{first_served}` says which tasks to rank next.
    """

    id: str
    when_zh: str
    """What is measured, and from where on the rule fires."""
    when_en: str
    zh: str
    en: str
    action: str | None
    fires: Callable[[Measurements], Numbers | None]


RULES: tuple[Rule, ...] = (
    Rule(
        "promote",
        "盲评结论为更好，模型尚未启用，且回答没有乱码",
        "the verdict is better, the model does not serve yet, and its answers are not garbled",
        "新模型的盲评胜率为 {rate:.0%}（{p}）：可以启用它，下一轮候选回答将由它生成。",
        "The new model wins {rate:.0%} of the blind review ({p}): promote it, and the next round's candidates"
        " come from it.",
        "promote",
        when.promote,
    ),
    Rule(
        "garbled",
        f"新模型的回答中乱码或重复的超过 {when.GARBLED_SHARE:.0%}（至少两个）",
        f"more than {when.GARBLED_SHARE:.0%} of the new model's answers are garbled or repetitive, at least"
        " two",
        "新模型有 {share:.1%} 的回答是乱码或重复：不要启用它；提高 KL 系数后再训练。",
        "{share:.1%} of the new model's answers are garbled or repetitive: do not promote it; raise the KL"
        " coefficient and train again.",
        "raise_kl",
        when.garbled,
    ),
    Rule(
        "over_optimised",
        "PPO 因过度优化停止，或奖励上升而盲评结论为更差",
        "PPO stopped for over-optimisation, or the reward rose and the verdict is worse",
        "过度优化：奖励从 {before:.2f} 升到 {after:.2f}（第 {best} 次更新），回答却没有变好："
        "请用更早的检查点。",
        "Over-optimisation: the reward rose from {before:.2f} to {after:.2f} (update {best}), the answers got"
        " no better: take an earlier checkpoint.",
        "fewer_updates",
        when.over_optimised,
    ),
    Rule(
        "kl_stop",
        "PPO 因 KL 过大停止",
        "PPO stopped because KL grew too large",
        "PPO 在 {updates} 次更新后因 KL 过大停止（{kl:.1f} nats，界限 {limit:g}），模型离起点太远："
        "请减小学习率，或提高 KL 系数。",
        "After {updates} updates KL was too large ({kl:.1f} nats, the limit is {limit:g}), the model had left"
        " where it began: take a smaller learning rate, or a higher KL coefficient.",
        "smaller_steps",
        when.kl_stop,
    ),
    Rule(
        "length_collapse",
        "PPO 因回答过短停止",
        "PPO stopped because answers became all but empty",
        "回答从平均 {before:.0f} 个词元缩到 {after:.1f} 个（界限 {limit:g}）：奖励模型把短当作好，"
        "能拉住它的是 KL 惩罚，请提高。",
        "Answers shrank from {before:.0f} tokens to {after:.1f} (the limit is {limit:g}): the reward model"
        " takes short for good, and what holds against it is the KL penalty: raise it.",
        "raise_kl",
        when.length_collapse,
    ),
    Rule(
        "length_explosion",
        "PPO 因回答停不下来停止",
        "PPO stopped because answers did not end any more",
        "回答从平均 {before:.0f} 个词元涨到 {after:.0f} 个且停不下来（{share:.0%} 无法使用，界限"
        " {limit:.0%}）：请提高对未结束回答的惩罚。",
        "Answers grew from {before:.0f} tokens to {after:.0f} and did not end ({share:.0%} are unusable, the"
        " limit is {limit:.0%}): raise the penalty for answers that do not end.",
        "dearer_ending",
        when.length_explosion,
    ),
    Rule(
        "style_unstable",
        f"PPO 因乱码、千篇一律或发散停止，或最后的得分回落超过涨幅的 {when.FALLEN_BACK:.0%}；clip 大于"
        f" {when.STABLE_CLIP}",
        "PPO stopped for garbled answers, a collapse of the entropy or diverging numbers, or more than"
        f" {when.FALLEN_BACK:.0%} of the gain in score was lost again; the clip range is above"
        f" {when.STABLE_CLIP}",
        "风格不稳定（结束原因 {reason}：{measured:.3g}，界限 {limit:.3g}；涨幅回落 {lost:.0%}）："
        "请把 clip 从 {clip:g} 降到 0.15，并增加更新次数。",
        "The style is unstable (PPO ended: {reason}, {measured:.3g} with a limit of {limit:.3g}; {lost:.0%}"
        " of the gain was lost again): lower the clip range from {clip:g} to 0.15 and make more updates.",
        "lower_clip",
        when.style_unstable,
    ),
    Rule(
        "unstable_again",
        f"同上，但 clip 已不大于 {when.STABLE_CLIP}",
        f"the same with a clip range of {when.STABLE_CLIP} or less",
        "clip 为 {clip:g} 时风格仍不稳定（结束原因 {reason}：{measured:.3g}，界限 {limit:.3g}；涨幅回落"
        " {lost:.0%}）：请减小学习率。",
        "The style is unstable with a clip range of {clip:g}, too (PPO ended: {reason}, {measured:.3g} with a"
        " limit of {limit:.3g}; {lost:.0%} of the gain was lost again): take a smaller learning rate.",
        "smaller_steps",
        when.unstable_again,
    ),
    Rule(
        "reward_flat",
        f"PPO 没有任何一次验证得分高于起点，且超过 {when.ALIKE_SHARE:.0%} 的候选回答相似或大同小异",
        f"no look at the verification prompts was better than the start, and more than {when.ALIKE_SHARE:.0%}"
        " of the candidates are alike or variants of one another",
        "奖励没有上升（{before:.2f} → {after:.2f}），而 {share:.0%} 的候选回答相似：排序能教的太少，"
        "请拉开差异后重新生成。",
        "The reward does not rise ({before:.2f} → {after:.2f}), and {share:.0%} of the candidates are"
        " alike, so"
        " that rankings teach too little: generate again with more spread.",
        "more_spread",
        when.reward_flat,
    ),
    Rule(
        "review_more",
        "盲评结论为证据不足",
        "the verdict is not enough evidence",
        "{judged} 组盲评还不足以下结论（p = {p:.2f}）：大约还需要 {needed} 组。请增加盲评题数后再训练一轮。",
        "{judged} blind reviews do not settle it (p = {p:.2f}): about {needed} more would. Raise the number"
        " of"
        " review prompts and train another round.",
        "larger_review",
        when.review_more,
    ),
    Rule(
        "review_few",
        "盲评对比少于设置要求的数目",
        "fewer comparisons than the settings ask for",
        "盲评只有 {made} 组（设置要求 {wanted} 组），因为题目不够：请导入更多题目。",
        "The blind review has only {made} comparisons of {wanted} asked for, because there are too few"
        " prompts:"
        " import more.",
        "import_prompts",
        when.review_few,
    ),
    Rule(
        "guideline",
        f"奖励模型未通过，且两人一致低于 {when.LOW_AGREEMENT:.0%}",
        f"the gate is not passed, and two annotators agree in less than {when.LOW_AGREEMENT:.0%}",
        "奖励模型的准确率为 {accuracy:.0%}，而标注者两两之间只有 {agreement:.0%} 一致：再多排序也没有用，"
        "请先写清标准，并讨论分歧最大的题{such_as}。",
        "The reward model reaches {accuracy:.0%}, and two annotators agree in only {agreement:.0%} of the"
        " pairs:"
        " more rankings will not help before the guideline is clear. Discuss the tasks that divide"
        " you{such_as}.",
        "show_tasks",
        when.guideline,
    ),
    Rule(
        "rank_more",
        f"检验证据不足，或未通过而排序少于 {when.FEW_RANKINGS} 个；一致不低",
        f"the gate found not enough evidence, or failed with fewer than {when.FEW_RANKINGS} rankings;"
        " agreement"
        " is not low",
        "奖励模型在未见题目上的准确率为 {accuracy}（区间 {low:.0%}–{high:.0%}，要求 {gate:.0%}），"
        "排序只有 {rankings} 个：请再排序 {needed} 题{first_served}。",
        "The reward model's held-out accuracy is {accuracy} (interval {low:.0%} to {high:.0%}, needed is"
        " {gate:.0%}) with {rankings} rankings: rank {needed} more tasks{first_served}.",
        "rank_more",
        when.rank_more,
    ),
    Rule(
        "reward_low",
        f"检验未通过，排序已有 {when.FEW_RANKINGS} 个以上；一致不低",
        f"the gate failed with {when.FEW_RANKINGS} rankings or more; agreement is not low",
        "{rankings} 个排序后奖励模型的准确率只有 {accuracy:.0%}（要求 {gate:.0%}）：请统一排序标准，"
        "再排序 {needed} 题{first_served}。",
        "With {rankings} rankings the reward model reaches only {accuracy:.0%} (needed is {gate:.0%}):"
        " agree on what good means, then rank {needed} more tasks{first_served}.",
        "rank_more",
        when.reward_low,
    ),
    Rule(
        "baseline_alone",
        "检验通过，但模型没有明显（p < 0.05）超过更好的长度规则",
        "the gate is passed, but the model is not significantly (p < 0.05) better than the better rule of"
        " length",
        "检验通过（{accuracy:.0%}），但只凭“{rule_zh}”就有 {baseline:.0%}：模型可能只学会了长度。"
        "如果这不是全部本意，请补充一些长度相近的排序。",
        "The gate is passed with {accuracy:.0%}, but the rule that {rule_en} alone gives {baseline:.0%}:"
        " length"
        " may be all that was learned. If you mean more than that, rank answers of similar length.",
        "rank_more",
        when.baseline_alone,
    ),
    Rule(
        "agreement_low",
        f"两人一致低于 {when.LOW_AGREEMENT:.0%}",
        f"two annotators agree in less than {when.LOW_AGREEMENT:.0%}",
        f"标注者两两之间只有 {{agreement:.0%}} 一致（建议至少 {when.LOW_AGREEMENT:.0%}）："
        "请一起讨论几道分歧最大的题{such_as}，写下统一的标准。",
        f"Two annotators agree in only {{agreement:.0%}} of the pairs (at least {when.LOW_AGREEMENT:.0%} is"
        " advisable): discuss the tasks that divide you{such_as} and write the rule down.",
        "show_tasks",
        when.agreement_low,
    ),
    Rule(
        "self_inconsistent",
        f"同一人再次排序的一致低于 {when.LOW_CONSISTENCY:.0%}（至少 {when.ENOUGH_JUDGEMENTS} 次比较）",
        f"people repeat less than {when.LOW_CONSISTENCY:.0%} of their own judgements"
        f" ({when.ENOUGH_JUDGEMENTS} at least)",
        "同一个人对同一题排两次，只有 {rate:.0%} 的判断相同（{prompts} 题）："
        "请把标准写得更明确，或让候选回答的差别更大。",
        "Ranking the same task twice, people repeat only {rate:.0%} of their judgements ({prompts} tasks):"
        " make"
        " the guideline more definite, or the answers more different.",
        None,
        when.self_inconsistent,
    ),
    Rule(
        "adjudicate",
        f"至少 {when.FEWEST_CONTESTED} 题的分歧多于一致",
        f"on {when.FEWEST_CONTESTED} tasks or more people disagree more than they agree",
        "{contested} / {shared} 道多人排序的题分歧多于一致{such_as}（排序项目的“分歧”标签页）："
        "可以请另一位标注者再排一次。",
        "On {contested} of {shared} tasks that several ranked, people disagree more than they"
        " agree{such_as} (tab"
        ' "Disagreement" of the ranking project): one more annotator can rank them.',
        "adjudicate",
        when.adjudicate,
    ),
    Rule(
        "annotator_apart",
        f"三人以上的团队中，一人与其余人的一致比中位低 {when.APART_GAP:.0%} 以上",
        f"in a team of three or more, one agrees with the rest {when.APART_GAP:.0%} less than the median",
        "标注者 {annotator} 与其他人只有 {rate:.0%} 一致（一般为 {usual:.0%}）：请和他核对排序标准。",
        "Annotator {annotator} agrees with the others in only {rate:.0%} of the pairs ({usual:.0%} is usual"
        " here): go through the guideline together.",
        None,
        when.annotator_apart,
    ),
    Rule(
        "unseen_worse",
        f"新题目的胜率比训练过的低 {when.UNSEEN_GAP:.0%} 以上",
        f"the win rate on unseen prompts is {when.UNSEEN_GAP:.0%} or more below that on seen ones",
        "新题目的胜率（{unseen:.0%}）明显低于训练过的题目（{seen:.0%}）：请补充这些场景的题目{such_as}。",
        "On prompts never seen it wins {unseen:.0%}, on seen ones {seen:.0%}: add prompts of the scenarios"
        " that"
        " it does not know{such_as}.",
        "import_prompts",
        when.unseen_worse,
    ),
    Rule(
        "unseen_far",
        f"超过 {when.FAR_SHARE:.0%} 的新题目（至少 {when.FEWEST_FAR} 条）远离所有训练题目",
        f"more than {when.FAR_SHARE:.0%} of the unseen prompts, {when.FEWEST_FAR} at least, are far from all"
        " learned ones",
        "{far} / {unseen} 条新题目与训练过的题目都不相近{such_as}：请补充这些场景的题目。",
        "{far} of the {unseen} unseen prompts are like none that was learned from{such_as}: import prompts of"
        " these scenarios.",
        "import_prompts",
        when.unseen_far,
    ),
    Rule(
        "scenario_thin",
        "某类场景的排序少于平均的四分之一",
        "a scenario has fewer rankings than a quarter of the mean",
        "{scenarios} 类场景的排序很少（最少的只有 {fewest} 个）{such_as}：请补充这类题目并排序。",
        "Scenarios with few rankings: {scenarios} (the thinnest has {fewest}){such_as}: import and rank more"
        " prompts like these.",
        "import_prompts",
        when.scenario_thin,
    ),
    Rule(
        "candidates_alike",
        f"超过 {when.ALIKE_SHARE:.0%} 的候选回答与同题的另一个过于相似",
        f"more than {when.ALIKE_SHARE:.0%} of the candidates are too like another of their prompt",
        "{share:.0%} 的候选回答过于相似（{alike} / {candidates}）：请拉开差异后重新生成。",
        "{share:.0%} of the candidates are too alike ({alike} of {candidates}): generate again with more"
        " spread.",
        "more_spread",
        when.candidates_alike,
    ),
    Rule(
        "candidates_variants",
        f"超过 {when.VARIANTS_SHARE:.0%} 的题目，候选回答大同小异（平均相似度高于 0.6）",
        f"the candidates of more than {when.VARIANTS_SHARE:.0%} of the prompts are variants of one another"
        " (mean similarity above 0.6)",
        "{share:.0%} 的题目（{variants} / {prompts}）的候选回答大同小异，排序能教的很少："
        "请加大温度和风格的差异后重新生成。",
        "The answers to {share:.0%} of the prompts ({variants} of {prompts}) are variants of one another, so"
        " ranking them teaches little: generate again with a clearer difference.",
        "more_spread",
        when.candidates_variants,
    ),
    Rule(
        "prompts_flagged",
        "有题目没有两个可用的候选回答",
        "prompts have no two usable candidates",
        "{flagged} / {prompts} 条题目没有可用的候选回答，没有人能排序：请重新生成。",
        "{flagged} of {prompts} prompts have no usable candidates, so nobody can rank them: generate again.",
        "generate_again",
        when.prompts_flagged,
    ),
    Rule(
        "length_bias",
        f"奖励与长度的相关系数绝对值不低于 {when.STRONG_CORRELATION}",
        f"the correlation of reward and length is {when.STRONG_CORRELATION} or more, in either direction",
        "奖励几乎只看长度：{better_zh}得分越高（相关系数 {correlation:.2f}）。"
        "如果这不是本意，请补充一些长度相近的排序。",
        "The reward follows the length, {better_en} is better (correlation {correlation:.2f}). If you mean"
        " more"
        " than that, rank answers of similar length.",
        "rank_more",
        when.length_bias,
    ),
    Rule(
        "suspicious",
        f"超过 {when.SUSPICIOUS_SHARE:.0%} 的排序是几秒内按原顺序提交的",
        f"more than {when.SUSPICIOUS_SHARE:.0%} of the rankings were submitted within seconds as displayed",
        "{suspicious} / {rankings} 个排序是几秒内按原顺序提交的：请提醒标注者先读完再提交。",
        "{suspicious} of {rankings} rankings were submitted within seconds in the displayed order: ask the"
        " annotators to read first.",
        None,
        when.suspicious,
    ),
    Rule(
        "retrain",
        "奖励模型学过的排序有已删除、修改或不再计入的",
        "rankings that the reward model learned from were deleted, edited or excluded since",
        "奖励模型学过的 {of} 个排序中，有 {removed} 个已删除、修改或不再计入："
        "请重新训练，新模型不再用到它们。",
        "{removed} of the {of} rankings that the reward model learned from were deleted, edited or excluded"
        " since: train again, and the new model is without them.",
        "start_training",
        when.retrain,
    ),
    Rule(
        "retrain_from",
        f"当前模型所依赖的排序中，超过 {when.REMOVED_SHARE:.0%} 已删除、修改或不再计入",
        f"more than {when.REMOVED_SHARE:.0%} of the rankings behind the serving policy were deleted, edited"
        " or excluded since",
        "当前模型所依赖的 {of} 个排序中，有 {removed} 个已删除、修改或不再计入，"
        "由它继续训练会带着它们的影响：`python -m backend train --from {clean}` "
        "会从不依赖它们的最新模型重新训练。",
        "{removed} of the {of} rankings behind the serving policy were deleted, edited or excluded since, and"
        " what is trained from it carries them on: `python -m backend train --from {clean}` starts from the"
        " newest one without them.",
        None,
        when.retrain_from,
    ),
    Rule(
        "few_prompts",
        f"题目少于 {when.FEW_PROMPTS} 条",
        f"fewer than {when.FEW_PROMPTS} prompts",
        "只有 {prompts} 条题目：100 到 200 条才足以训练并验证。",
        "There are only {prompts} prompts: 100 to 200 are enough to train and to check.",
        "import_prompts",
        when.few_prompts,
    ),
)

"""The five steps of the journey in words: where each stands and what it waits for. Pure.

The console, the terminal and the demo show them; `backend.policy` decides, this only tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.policy import BUSY_ROUNDS, Waiting, WorkspaceState, next_actions, rankings_threshold, tasks_left
from backend.report_review import verdict_words
from backend.status import AdviceView, Counts, RoundView, RunView, Step, StepKey, StepState

_AFTER_REWARD = frozenset({"tuning", "comparing", "reviewing", "decided"})
_AFTER_PPO = frozenset({"comparing", "reviewing", "decided"})


def five_steps(
    state: WorkspaceState,
    counts: Counts,
    current: RoundView | None,
    runs: Sequence[RunView],
    *,
    auto_ppo: bool = True,
) -> tuple[Step, ...]:
    """Candidates, rankings, reward, ppo, review."""
    newest = {run.kind: run for run in runs if run.kind == "generate" or _is_of(run, current)}
    return (
        _candidates(state, counts, newest.get("generate")),
        _rankings(state, counts),
        _reward(state, current, newest.get("reward")),
        _ppo(current, newest.get("ppo"), newest.get("reward"), auto_ppo),
        _review(current, newest.get("compare")),
    )


def _is_of(run: RunView, current: RoundView | None) -> bool:
    """A run of this round; also the reward model of an earlier one, which PPO may use again."""
    used_again = run.kind == "reward" and current is not None and current.state in _AFTER_REWARD
    return used_again or (current is not None and run.round_id == current.id)


def next_words(steps: Sequence[Step], advice: Sequence[AdviceView] = ()) -> tuple[str, str]:
    """The one thing that happens next: what needs a decision, else what runs, else what people do.

    Args:
        advice: what the newest verdict says to do; once the review is done, it comes before new rankings.
    """
    ready = [found for found in advice if found.action]
    reviewed = steps[-1].state == "done"
    for wanted in ("attention", "running", "people", "waiting"):
        if wanted == "people" and reviewed and ready:
            return ready[0].zh, ready[0].en
        found = [step for step in steps if step.state == wanted]
        if found:
            step = found[0] if wanted == "waiting" else found[-1]
            return step.reason_zh, step.reason_en
    return steps[-1].reason_zh, steps[-1].reason_en


def _candidates(state: WorkspaceState, counts: Counts, run: RunView | None) -> Step:
    if run and run.state in ("queued", "running"):
        what = "排队中", "queued"
        if run.state == "running":
            what = "正在生成候选回答", "generating candidates"
        return _running("candidates", run, *what)
    if run and run.state in ("failed", "cancelled"):
        return _broken("candidates", run)
    if not counts.prompts:
        words = _words(next_actions(state)[0])
        return Step("candidates", "waiting", *words)
    flagged_zh = f"，{counts.prompts_flagged} 条无法使用" if counts.prompts_flagged else ""
    flagged_en = f", {counts.prompts_flagged} set aside" if counts.prompts_flagged else ""
    finished = counts.prompts_published + counts.prompts_flagged >= counts.prompts
    zh, en = (
        f"{counts.prompts_published} 条题目已有候选回答",
        f"{counts.prompts_published} prompts have candidates",
    )
    if not finished:
        zh, en = "正在把候选回答写入“排序”项目", "Candidates are being written to the ranking project"
    return Step(
        "candidates",
        "done" if finished else "running",
        f"{zh}{flagged_zh}。",
        f"{en}{flagged_en}.",
        done=counts.prompts_published,
        total=counts.prompts,
        run_id=run.id if run else None,
    )


def _rankings(state: WorkspaceState, counts: Counts) -> Step:
    if not counts.prompts_published and not counts.rankings:
        return Step("rankings", "waiting", "等待候选回答。", "Waiting for candidates.")
    threshold = rankings_threshold(state)
    action = next_actions(state)[1]
    if state.round_state in (*BUSY_ROUNDS, "reviewing") or not isinstance(action, Waiting):
        return Step(
            "rankings",
            "done",
            f"{counts.rankings} 个排序，来自 {counts.annotators} 位标注者。",
            f"{counts.rankings} rankings from a team of {counts.annotators}.",
            done=counts.rankings,
            total=counts.rankings,
        )
    zh, en = _words(action)
    turn: StepState = "waiting" if state.decision_open else "people"  # it is the lead's, not the team's
    return Step("rankings", turn, zh, en, done=counts.rankings_new, total=threshold or counts.rankings_new)


def _reward(state: WorkspaceState, current: RoundView | None, run: RunView | None) -> Step:
    if current is None or run is None:
        return Step("reward", "waiting", "等待足够的排序。", "Waiting for enough rankings.")
    if current.state == "rewarding":
        return _running("reward", run, "正在训练奖励模型", "training the reward model")
    if run.state in ("failed", "cancelled"):
        return _broken("reward", run)
    result = run.result or {}
    accuracy = result.get("accuracy")
    shown = "—" if accuracy is None else f"{accuracy:.0%}"
    zh, en = f"未见题目上的准确率 {shown}", f"right on {shown} of the unseen pairs"
    outcome, needed = result.get("outcome"), rankings_threshold(state)
    if outcome == "passed":
        return Step("reward", "done", f"{zh}：通过。", f"Passed: {en}.", run_id=run.id)
    if current.state in _AFTER_REWARD:
        zh, en = f"{zh}：未通过，已手动开始 PPO。", f"Not passed: {en}. PPO was started by hand."
        return Step("reward", "done", zh, en, run_id=run.id)
    zh_outcome, en_outcome = {
        "not_enough_evidence": ("证据不足", "Not enough evidence yet"),
        "failed": ("未通过", "Not passed"),
    }.get(str(outcome), ("未通过", "Not passed"))
    todo_zh, todo_en = _more_rankings(state, needed)
    return Step(
        "reward", "attention", f"{zh_outcome}（{zh}）{todo_zh}。", f"{en_outcome} ({en}){todo_en}.",
        run_id=run.id,
    )  # fmt: skip


def _more_rankings(state: WorkspaceState, needed: int | None) -> tuple[str, str]:
    """What a team does that needs more rankings: rank, and import first what there is to rank."""
    if not needed:
        return "", ""
    left = tasks_left(state)
    if left is not None and left < needed:
        return (
            f"：请先导入约 {needed - left} 条新题目，再增加约 {needed} 个排序",
            f": import about {needed - left} more prompts, then rank about {needed} more tasks",
        )
    return f"：请再增加约 {needed} 个排序", f": rank about {needed} more tasks"


def _ppo(current: RoundView | None, run: RunView | None, reward: RunView | None, auto: bool) -> Step:
    if current is not None and run is not None:
        if current.state == "tuning":
            return _running("ppo", run, "正在进行 PPO", "PPO is running")
        if run.state in ("failed", "cancelled"):
            return _broken("ppo", run)
        if current.state in _AFTER_PPO or run.state == "succeeded":
            result = run.result or {}
            before, after = result.get("reward_before"), result.get("reward_after")
            moved = "" if before is None or after is None else f"{before:.2f} → {after:.2f}"
            updates = result.get("updates", "—")
            zh, en = f"{updates} 次更新，奖励 {moved}。", f"{updates} updates, reward {moved}."
            return Step("ppo", "done", zh, en, run_id=run.id)
    passed = reward is not None and (reward.result or {}).get("outcome") == "passed"
    if current is not None and current.state == "gated" and passed and not auto:
        return Step(
            "ppo",
            "attention",
            "奖励模型已通过：可以开始 PPO。",
            "The reward model passed: PPO can be started.",
        )
    return Step("ppo", "waiting", "等待奖励模型通过。", "Waiting for the reward model to pass.")


def _review(current: RoundView | None, run: RunView | None) -> Step:
    if current is None or run is None or current.state not in _AFTER_PPO:
        if run is not None and run.state in ("failed", "cancelled"):
            return _broken("review", run)
        return Step("review", "waiting", "等待新模型。", "Waiting for the new model.")
    if current.state == "comparing":
        return _running("review", run, "正在生成前后对比", "both models answer the review prompts")
    done, total = current.judged, current.comparisons
    if current.state == "reviewing":
        return Step(
            "review", "people", f"请盲评：已评 {done} / {total} 组。",
            f"Judge the comparisons in the review project: {done} of {total} done.",
            done=done, total=total, run_id=run.id,
        )  # fmt: skip
    verdict = current.verdict or {}
    zh, en, _ = verdict_words(verdict)
    rate = verdict.get("win_rate")
    shown = "—" if rate is None else f"{rate:.0%}"
    return Step(
        "review", "done", f"{zh}（胜率 {shown}）。", f"{en} (win rate {shown}).",
        done=done, total=total, run_id=run.id,
    )  # fmt: skip


def _running(key: StepKey, run: RunView, zh: str, en: str) -> Step:
    done, total = run.progress_done, run.progress_total
    share = f" {done} / {total}" if total else ""
    return Step(
        key, "running", f"{zh}{share}。", f"{en[0].upper()}{en[1:]}{share}.",
        done=done, total=total, run_id=run.id,
    )  # fmt: skip


def _broken(key: StepKey, run: RunView) -> Step:
    if run.state == "cancelled":
        zh, en = "已取消；可以重试。", "Cancelled; it can be tried again."
    else:
        zh, en = f"失败：{run.error_zh}", f"Failed: {run.error}"
    return Step(key, "attention", zh, en, run_id=run.id)


def _words(action: object) -> tuple[str, str]:
    if isinstance(action, Waiting):
        return action.reason_zh, action.reason_en
    return "即将开始。", "About to start."

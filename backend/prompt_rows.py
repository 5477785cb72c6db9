"""From the tasks of the prompts project to our prompts, and to what the lead should know about the others.

`backend.reconcile` reads the tasks; the workflow generates candidates for the rows that are `new`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from backend import store as queries
from backend.annotations import MAX_PROMPT_CHARACTERS, Malformed, ParsedPrompt, parse_prompt
from backend.tables import PromptRow
from trainers.preferences import split_of

MAX_PROMPTS = 10_000
"""Prompts of one workspace; more are reported and left alone."""
MAX_PROBLEM_TASKS = 1000
"""Task ids remembered for each kind of problem."""

PROBLEMS: Mapping[str, tuple[str, str]] = {
    "missing_column": (
        "{n} 条没有 prompt 列：请把文件里问题所在的列改名为 prompt，再导入一次",
        "{n} without a `prompt` column: rename the questions' column to `prompt` and import again",
    ),
    "empty": ("{n} 条内容为空，已跳过", "{n} empty, skipped"),
    "duplicate": (
        "{n} 条与更早的问题相同，只用第一条",
        "{n} the same as an earlier prompt; only the first is used",
    ),
    "bad_history": (
        '{n} 条的 history 列不是对话：需要 [{{"role": "user", "content": "…"}}, '
        '{{"role": "assistant", "content": "…"}}, …]，用户与助手轮流，以助手结束',
        '{n} whose `history` is no conversation: needed is [{{"role": "user", "content": "…"}}, '
        '{{"role": "assistant", "content": "…"}}, …], in turn, the assistant last',
    ),
    "too_long": (
        f"{{n}} 条太长（最多 {MAX_PROMPT_CHARACTERS} 个字符），请缩短",
        f"{{n}} too long (at most {MAX_PROMPT_CHARACTERS} characters); shorten them",
    ),
    "too_many": (
        f"{{n}} 条超过每个工作区 {MAX_PROMPTS} 条的上限，未使用；请另建一个工作区",
        f"{{n}} above the limit of {MAX_PROMPTS} prompts a workspace, not used; make another workspace",
    ),
}
"""What the lead reads of tasks that are no usable prompts, `{n}` of them; their ids follow."""
_NAMED_TASKS = 5


class Prompts:
    annotations = False

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.found: dict[str, tuple[ParsedPrompt, int]] = {}
        self.seen: set[int] = set()
        self.problems: dict[str, list[int]] = defaultdict(list)
        self.twins: dict[str, list[int]] = defaultdict(list)

    def known(self, session: Session) -> set[int]:
        rows = queries.prompts(session, self.workspace)
        return {row.id for row in rows if row.source_task is not None and row.state != "deleted"}

    def read(self, task: Mapping[str, Any]) -> None:
        self.seen.add(task["id"])
        match parse_prompt(task.get("data")):
            case Malformed(reason):
                self.problems[reason].append(task["id"])
            case ParsedPrompt() as parsed if parsed.prompt_id in self.found:
                self.twins[parsed.prompt_id].append(task["id"])
            case ParsedPrompt() as parsed if len(self.found) < 2 * MAX_PROMPTS:
                self.found[parsed.prompt_id] = (parsed, task["id"])
            case ParsedPrompt():
                self.problems["too_many"].append(task["id"])

    def apply(self, session: Session, gone_among: set[int] | None) -> int:
        rows = {row.prompt_id: row for row in queries.prompts(session, self.workspace)}
        room = MAX_PROMPTS - sum(row.state != "deleted" for row in rows.values())
        changed = 0
        for key, (parsed, task) in self.found.items():
            row = rows.get(key)
            if row is None and room <= 0:
                self.problems["too_many"].append(task)
            elif row is None:
                session.add(_new_prompt(self.workspace, parsed, task))
                room, changed = room - 1, changed + 1
            else:
                changed += self._seen_again(session, row, task, full=gone_among is not None)
        for row in rows.values() if gone_among is not None else ():
            if row.id in (gone_among or ()) and row.prompt_id not in self.found:
                row.state, changed = "deleted", changed + 1
        self._report(session, full=gone_among is not None)
        return changed

    def _seen_again(self, session: Session, row: PromptRow, task: int, *, full: bool) -> int:
        first = row.source_task
        if first is not None and first != task and not full:
            self.twins[row.prompt_id].append(max(first, task))
        if first is not None:
            row.source_task = task if full else min(first, task)
        if row.state != "deleted":
            return 0
        answered = queries.responses(session, self.workspace, row.prompt_id)
        row.state = "published" if row.ranking_task else "ready" if answered else "new"
        return 1

    def _report(self, session: Session, *, full: bool) -> None:
        """Renew the workspace's problems: wholly, or for the tasks that were seen."""
        for tasks in self.twins.values():
            self.problems["duplicate"] += tasks
        workspace = queries.workspace(session, self.workspace)
        before = {} if full else {told["id"]: told for told in workspace.problems}
        report = []
        for kind, sentences in PROBLEMS.items():
            known = before.get(kind, {"tasks": [], "count": 0})
            tasks = sorted((set(known["tasks"]) - self.seen) | set(self.problems.get(kind, ())))
            unlisted = known["count"] > len(known["tasks"])  # which of those were seen, a full pass tells
            if count := max(known["count"], len(tasks)) if unlisted else len(tasks):
                report.append(problem(kind, sentences, count, tasks[:MAX_PROBLEM_TASKS]))
        if report != workspace.problems:
            workspace.problems = report


def problem(kind: str, sentences: tuple[str, str], count: int, tasks: Sequence[int]) -> dict[str, Any]:
    """What the lead reads in both languages: the sentence with its number, and the first tasks' ids."""
    zh, en = (sentence.format(n=count) for sentence in sentences)
    ids = [str(task) for task in tasks[:_NAMED_TASKS]] + ["…"] * (count > _NAMED_TASKS)
    return {
        "id": kind, "count": count, "tasks": list(tasks),
        "zh": f"{zh}（任务 {'、'.join(ids)}）。",
        "en": f"{en} (task {', '.join(ids)}).",
    }  # fmt: skip


def _new_prompt(workspace: str, parsed: ParsedPrompt, task: int) -> PromptRow:
    return PromptRow(
        workspace=workspace,
        prompt_id=parsed.prompt_id,
        text=parsed.text,
        system=parsed.system,
        history=[turn.to_json() for turn in parsed.history],
        split=split_of(parsed.text),
        source_task=task,
        state="new",
    )

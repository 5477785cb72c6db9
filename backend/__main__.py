"""`python -m backend COMMAND`: serve, look, train, promote, roll back, exclude, report, export.

Configures logging, reads the settings and turns every error that a user can act on into one line. `serve` is
the server; the other commands work beside it, on the same database.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend import lineage_text, people, store
from backend.adjudication import TAB
from backend.errors import BackendError, ConflictError
from backend.exclusions import exclude, include
from backend.inputs import candidates_records, ranking_record
from backend.lineage import Dependence, lineage_of
from backend.report import Report, action_line, to_json, to_page, to_text
from backend.rounds import build_report
from backend.service import Service
from backend.settings import Settings
from backend.status import ModelView, RoundView, RunView, WorkspaceStatus
from backend.training import TrainingAnswer
from trainers.errors import TrainerError
from trainers.preferences import derive_preferences, to_llama_factory, to_trl

MOST_ACTIONS = 5
MOST_RUNS = 8
"""Applied advice and runs that the status shows, the newest."""
_MARKS = {"waiting": "·", "running": "▶", "people": "☺", "done": "✓", "attention": "!"}
_REPORTS: dict[str, Callable[[Report], str]] = {"text": to_text, "json": to_json, "html": to_page}
_COLOURS = {"waiting": "dim", "running": "cyan", "people": "yellow", "done": "green", "attention": "bold red"}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if it was done, 2 if something must be mended first; then stderr says what."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.command == "serve" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    try:
        settings = Settings.from_environment()
        done: int = options.run(settings, options)
    except (BackendError, TrainerError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return done


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from backend.wsgi import server  # the other commands need no web server

    service = Service(settings)
    try:
        web = server(service)
    except OSError as error:
        raise ConflictError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror});"
            " stop what uses it or set `BACKEND_PORT`"
        ) from error
    service.start()
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    threading.Thread(target=web.run, name="web", daemon=True).start()
    print(f"backend: {settings.backend_url} (Label Studio: {settings.label_studio_url})", flush=True)
    asked.wait()
    print("stopping; a running training saves a checkpoint", flush=True)
    web.close()
    service.stop()
    return 0


def _status(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    names = [options.workspace] if options.workspace else service.workspaces()
    console = Console()
    if not names:
        console.print("no workspace yet; make one with `python -m scripts.setup_project NAME`", markup=False)
    for status in [service.status(name) for name in names]:
        _show(console, service, status)
    console.print(Text(f"console · 控制台: {settings.backend_url}"))
    return 0


def _train(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    ranking = service.status(name).ranking_project
    answer = service.start_ppo(name) if options.ppo else service.start_training(ranking, serve=options.start)
    _call_server(service, name)
    return _tell(answer)


def _conclude(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    service.conclude(name)
    _call_server(service, name)
    print(f"the review of `{name}` ends with the judgements that are there; the verdict follows")
    return 0


def _adjudicate(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    sent = service.adjudicate(name)
    print(f"{sent} tasks of `{name}` wait for one more annotator: tab `{TAB}` of the ranking project")
    return 0


def _apply(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    applied = service.apply(name, options.advice)
    _call_server(service, name)
    print(f"{applied.zh}\n{applied.en}" + (f" ({applied.run_id})" if applied.run_id else ""))
    return 0


def _revert(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    taken_back = service.revert(_workspace(service, options), options.advice)
    print(f"{taken_back.zh}\n{taken_back.en}")
    return 0


def _promote(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    service.promote(name, options.model, options.reason)
    print(f"`{options.model}` serves `{name}` now")
    return 0


def _rollback(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    print(f"`{service.rollback(name)}` serves `{name}` again")
    return 0


def _cancel(settings: Settings, options: argparse.Namespace) -> int:
    Service(settings).cancel(options.run_id)
    print(f"`{options.run_id}` is cancelled; its process stops within seconds")
    return 0


def _retry(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    service.retry(options.run_id)
    for name in service.workspaces():
        _call_server(service, name)
    print(f"`{options.run_id}` is queued again; it goes on where it was")
    return 0


def _exclude(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    with service.store.session() as session:
        number = exclude(session, name, options.annotator, options.reason)
    _call_server(service, name)
    print(
        f"{number} rankings of annotator `{options.annotator}` do not count any more; their tasks are served"
        " to others; `python -m backend train` trains without them, `python -m backend include` undoes it"
    )
    return 0


def _include(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    with service.store.session() as session:
        number = include(session, name, options.annotator)
    _call_server(service, name)
    print(f"{number} rankings of annotator `{options.annotator}` count again")
    return 0


def _lineage(settings: Settings, options: argparse.Namespace) -> int:
    with Service(settings).store.reading() as session:
        lineage, known = lineage_of(session, options.model), people.names(session)
    if options.format == "json":
        print(json.dumps(lineage.to_json(), ensure_ascii=False, indent=2))
    else:
        print(lineage_text.to_text(lineage, known), end="")
    return 0


def _export(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    name = _workspace(service, options)
    with service.store.reading() as session:
        rankings = [ranking_record(row) for row in store.active_rankings(session, name)]
        candidates = candidates_records(session, name)
    preferences = derive_preferences(rankings, candidates)
    if options.format == "trl":
        options.out.mkdir(parents=True, exist_ok=True)
        written = options.out / "preferences.jsonl"
        to_trl(preferences, candidates, written)
    else:
        written = options.out
        to_llama_factory(preferences, candidates, options.out)
    print(f"{len(preferences)} preferences from {len(rankings)} rankings: {written}")
    return 0


def _report(settings: Settings, options: argparse.Namespace) -> int:
    service = Service(settings)
    with service.store.reading() as session:
        name = options.round
        current = store.round_by_id(session, name) if name else store.newest_round(session)
        written = _REPORTS[options.format](build_report(session, settings, current))
    if options.out is None:
        print(written, end="")
        return 0
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(written, encoding="utf-8")
    except OSError as error:
        raise ConflictError(
            f"`{options.out}` cannot be written ({error.strerror}); name another file with --out"
        ) from error
    print(f"report of `{current.id}`: {options.out}")
    return 0


def _workspace(service: Service, options: argparse.Namespace) -> str:
    """The workspace that is meant: the named one, or the only one."""
    names = service.workspaces()
    if options.workspace:
        service.status(options.workspace)  # an unknown one is an error
        return str(options.workspace)
    if len(names) != 1:
        shown = ", ".join(f"`{name}`" for name in names) or "none yet"
        raise ConflictError(f"say which workspace with --workspace (there are: {shown})")
    return names[0]


def _call_server(service: Service, workspace: str) -> None:
    """Let the server, which is another process, look at the workspace at once."""
    service.hint(service.status(workspace).ranking_project, "COMMAND")


def _tell(answer: TrainingAnswer) -> int:
    print(f"{answer.reason_zh}\n{answer.reason_en}" + (f" ({answer.run_id})" if answer.run_id else ""))
    return 0 if answer.started or answer.run_id else 2


# --- the status ---


def _show(console: Console, service: Service, status: WorkspaceStatus) -> None:
    console.rule(Text(f"{status.title} ({status.workspace}), serving {status.serving_policy}"))
    steps = _table("", "", grid=True)
    for step in status.steps:
        mark = Text(f" {_MARKS[step.state]} {step.key}", style=_COLOURS[step.state])
        steps.add_row(mark, Text(f"{step.reason_zh}\n{step.reason_en}"))
    steps.add_row(Text("\n next · 下一步"), Text(f"\n{status.next_zh}\n{status.next_en}\n"), style="bold")
    console.print(steps)
    _show_history(console, service, status)
    for advice in status.advice:
        console.print(Text(f" → {advice.zh}\n   {advice.en}"))
        if advice.applies:
            console.print(Text(f"   python -m backend apply {advice.id}", style="cyan"))
    for done in status.actions[-MOST_ACTIONS:]:
        console.print(Text(f" ✓ {action_line(done)}", style="dim"))
    for problem in status.problems:
        console.print(Text(f" ! {problem['zh']} {problem['en']}", style="yellow"))


def _show_history(console: Console, service: Service, status: WorkspaceStatus) -> None:
    if status.rounds:
        console.print(_rounds_table(status.rounds))
    if status.models:
        console.print(_models_table(status.models))
    if status.runs:
        console.print(_runs_table(service, status.runs[-MOST_RUNS:]))
        for run in _failed_unsaid(status):
            console.print(Text(f" ! {run.id}: {run.error_zh}\n   {run.error}", style="yellow"))


def _table(*names: str, title: str = "", grid: bool = False) -> Table:
    """A table that shows every word: a Chinese sentence has no blank to be broken at, and would be cut."""
    table = Table.grid(padding=(0, 1)) if grid else Table(title=title)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in ("run", "started"))
    return table


def _rounds_table(rounds: Sequence[RoundView]) -> Table:
    table = _table("round", "state", "judged", "verdict", "win rate", "p", title="rounds · 轮次")
    for found in rounds:
        verdict = found.verdict or {}
        rate, p = verdict.get("win_rate"), verdict.get("p_value")
        judged = f"{found.judged}/{found.comparisons}"
        state = "\n".join(part for part in (found.state, found.reason_zh, found.reason_en) if part)
        table.add_row(
            *(Text(cell) for cell in (found.id, state, judged, str(verdict.get("verdict", "")))),
            "" if rate is None else f"{rate:.0%}",
            "" if p is None else f"{p:.3g}",
        )
    return table


def _models_table(models: Sequence[ModelView]) -> Table:
    table = _table("model", "from", "state", "depends on", title="models · 模型")
    for model in models:
        behind = " · ".join(lineage_text.dependence_words(Dependence(model.rankings, model.removed)))
        state = "serving" if model.serving else model.state
        cells = (model.id, model.parent if model.kind == "policy" else "", state, behind)
        table.add_row(*map(Text, cells), style="yellow" if model.removed else "")
    return table


def _runs_table(service: Service, runs: Sequence[RunView]) -> Table:
    table = _table("run", "state", "progress", "started", "newest metrics", title="runs · 运行")
    for run in runs:
        progress = (
            f"{run.progress_done}/{run.progress_total} {run.progress_what}" if run.progress_total else ""
        )
        started = datetime.fromtimestamp(run.started).strftime("%m-%d %H:%M:%S") if run.started else ""
        cells = (run.id, run.state, progress, started, _newest_metrics(service, run.id))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _failed_unsaid(status: WorkspaceStatus) -> list[RunView]:
    """Of the newest runs those that failed for a reason that no step gives."""
    said = " ".join(step.reason_en for step in status.steps)
    return [run for run in status.runs[-MOST_RUNS:] if run.error and run.error not in said]


def _newest_metrics(service: Service, run_id: str) -> str:
    shown = ("reward/heldout_accuracy", "reward/loss", "objective/score", "objective/kl", "verify/score")
    newest: dict[str, Any] = {}
    with service.store.reading() as session:
        for metric in store.metrics(session, run_id):
            if metric.name in shown:
                newest[metric.name] = metric.value
    return ", ".join(f"{name} {newest[name]:.3g}" for name in shown if name in newest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend",
        description="RLHF inside Label Studio. Settings come from the environment and var/settings.env;"
        " docs/settings.md explains each.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(run=run)
        return made

    def of_workspace(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--workspace", default="", help="its short name; not needed if there is only one")
        return made

    command("serve", _serve, "run the backend: web, workflows and trainers, until SIGTERM or Ctrl-C")
    of_workspace(command("status", _status, "show rounds, runs, metrics and the next step"))
    train = of_workspace(command("train", _train, "train the reward model now, or with --ppo the policy"))
    how = train.add_mutually_exclusive_group()
    how.add_argument("--ppo", action="store_true", help="start PPO of the current round by hand")
    how.add_argument(
        "--from", dest="start", default="", metavar="MODEL",
        help="promote this policy first and train from it; `base` for the base model",
    )  # fmt: skip
    of_workspace(command("conclude", _conclude, "end the review with the judgements that are there"))
    of_workspace(command("adjudicate", _adjudicate, "send tasks that divide the team to one more annotator"))
    apply = of_workspace(command("apply", _apply, "do what a piece of advice says, and keep why"))
    apply.add_argument("advice", help="its id, as status and report show it, e.g. kl_stop")
    revert = of_workspace(command("revert", _revert, "take back the settings that advice has changed"))
    revert.add_argument("advice", help="its id, as it was applied")
    promote = of_workspace(command("promote", _promote, "let a policy write the next round's candidates"))
    promote.add_argument("model", help="its id, e.g. policy-team-1; `base` for the base model")
    promote.add_argument("--reason", default="by command", help="kept in the history")
    of_workspace(command("rollback", _rollback, "let the policy that served before serve again"))
    excluded = of_workspace(command("exclude", _exclude, "let an annotator's rankings not count any more"))
    excluded.add_argument("--annotator", type=int, required=True, help="the id that report and lineage show")
    excluded.add_argument("--reason", default="", help="kept with it")
    included = of_workspace(command("include", _include, "let an excluded annotator's rankings count again"))
    included.add_argument("--annotator", type=int, required=True, help="the id of the annotator")
    lineage = command("lineage", _lineage, "show what a model comes from, to the exact rankings")
    lineage.add_argument("model", help="its id, e.g. policy-team-1")
    lineage.add_argument("--format", choices=("text", "json"), default="text")
    command("cancel", _cancel, "stop a run for good").add_argument("run_id")
    command("retry", _retry, "try a failed or cancelled run again").add_argument("run_id")
    report = command("report", _report, "show what a round found: verdict, leaderboard, figures, advice")
    report.add_argument(
        "round", nargs="?", default="", help="e.g. team-r1 (default: the newest with a verdict)"
    )
    report.add_argument("--format", choices=tuple(_REPORTS), default="text")
    report.add_argument("--out", type=Path, help="file (default: print it)")
    export = of_workspace(
        command("export", _export, "write the rankings as preference data for other trainers")
    )
    export.add_argument("--format", choices=("trl", "llama-factory"), default="trl")
    export.add_argument(
        "--out", type=Path, default=Path("var/export"), help="directory (default: var/export)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

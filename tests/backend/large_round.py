"""Measures a round of very many rankings: `python -m tests.backend.large_round --rankings 10000`.

Everything but learning is real: the rows come from a (fake) Label Studio by reconciliation, the gate measures
them, the verdict, the status and the report are made from them. Seconds are of one core.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from backend import store
from backend.inputs import Queued, queue_compare, queue_generate, queue_ppo, queue_reward
from backend.launcher import Finish
from backend.outputs import Outputs
from backend.overview import workspace_status
from backend.reconcile import reconcile
from backend.report import to_json, to_page, to_text
from backend.rounds import Rounds, build_report
from backend.writeback import WriteBack
from tests.backend.whole import Whole
from tests.fake_label_studio import ranking_result, verdict_result

ANNOTATORS = 2
_Result = TypeVar("_Result")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.backend.large_round", description=__doc__)
    parser.add_argument("--rankings", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), options.rankings)


def measure(directory: Path, rankings: int) -> dict[str, float]:
    """Print what each part takes. Returns: seconds by name."""
    whole = Whole(directory)
    whole.environment = {"REAL_GATE": "1"}
    whole.service = whole.make_service()
    opened, client = whole.service.store, whole.service.client
    outputs, rounds = Outputs(whole.settings), Rounds(whole.settings, opened)
    writeback = WriteBack(opened, client)
    for n in range(rankings // ANNOTATORS):
        whole.label_studio.add_task(whole.projects["prompts"], {"prompt": f"{_word(n)} {_word(7 * n)} {n}"})
    reconcile(opened, client, "team", full=True)
    run(whole, lambda session: queue_generate(session, whole.settings, "team"), outputs.finish_generate)
    writeback.publish_rankings("team")
    annotate(whole)
    taken = {"reconcile": seconds(lambda: reconcile(opened, client, "team", full=True))[0]}
    run(
        whole,
        lambda session: queue_reward(session, whole.settings, "team", asked=False),
        outputs.finish_reward,
        outputs.stage_model,
    )
    to_verdict(whole, outputs, writeback)
    taken["verdict"], _ = seconds(lambda: rounds.reach_verdict("team-r1"))
    with opened.reading() as session:
        current = store.round_by_id(session, "team-r1")
        taken["status"], _ = seconds(lambda: workspace_status(session, whole.settings, "team"))
        taken["report"], report = seconds(lambda: build_report(session, whole.settings, current))
        counted = len(store.active_rankings(session, "team"))
    for name, form in (("text", to_text), ("json", to_json), ("html", to_page)):
        taken[name], written = seconds(lambda form=form: form(report))  # type: ignore[misc]
        print(f"{name}: {len(written.encode()) / 1000:.0f} kB")  # noqa: T201
    taken["report task"], _ = seconds(lambda: writeback.publish_report(*rounds.report("team-r1")))
    for name, value in taken.items():
        print(f"{name}: {value:.2f} s")  # noqa: T201
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{counted} rankings, peak {peak:.0f} MB, the fake Label Studio included")  # noqa: T201
    whole.service.stop()
    return taken


def annotate(whole: Whole) -> None:
    """Everybody ranks everything; the second person disagrees on every fifth task."""
    for place, task in enumerate(whole.tasks("ranking")):
        answers = sorted(task["data"]["answers"], key=lambda answer: len(answer["body"]))
        for user in range(1, ANNOTATORS + 1):
            other = user == ANNOTATORS and place % 5 == 0
            ids = [answer["id"] for answer in (answers[::-1] if other else answers)]
            whole.label_studio.annotate(task["id"], ranking_result(*ids), user=user)


def to_verdict(whole: Whole, outputs: Outputs, writeback: WriteBack) -> None:
    """PPO, comparisons, and a review of them."""

    def ppo(session: Any) -> Queued:
        return queue_ppo(session, whole.settings, store.round_by_id(session, "team-r1"), asked=True)

    def compare(session: Any) -> Queued:
        current = store.round_by_id(session, "team-r1")
        return queue_compare(session, whole.settings, current, "policy-team-1")

    run(whole, ppo, outputs.finish_ppo, outputs.stage_model)
    run(whole, compare, outputs.finish_compare)
    writeback.publish_reviews("team", "team-r1")
    for task in whole.tasks("review"):
        side = "left" if task["data"]["left"].startswith("AFTER") else "right"
        whole.label_studio.annotate(task["id"], verdict_result(side))
    reconcile(whole.service.store, whole.service.client, "team", full=True)


def run(whole: Whole, queue: Callable[[Any], Queued | None], finish: Finish, stage: Any = None) -> None:
    with whole.service.store.session() as session:
        queued = queue(session)
        assert queued is not None
        run_id = queued.run.id
    end = whole.service._launcher.run_stage(run_id, finish, *([stage] if stage else []))
    assert end.state == "succeeded", end


def seconds(action: Callable[[], _Result]) -> tuple[float, _Result]:
    """CPU seconds of this process."""
    begun = time.process_time()
    result = action()
    return time.process_time() - begun, result


def _word(n: int) -> str:
    return ("kettle", "stain", "parcel", "refund", "battery", "recipe", "train", "garden")[n % 8]


if __name__ == "__main__":
    main()

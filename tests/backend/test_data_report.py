"""What the report says about the data: the numbers, in both languages, and nothing that was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.data_report import Data, data_rows, named_prompts, quoted
from backend.report import Report, to_html, to_text
from backend.rounds import build_report
from backend.service import Service
from backend.store import rounds
from backend.tables import PromptRow, RankingRow, ResponseRow, RoundRow, RunRow
from backend.verdict import judge_round
from tests.backend.web import seeded
from trainers.agreement import measure_agreement
from trainers.coverage import measure_coverage
from trainers.records import Candidates, Prompt, Ranking, Response
from trainers.spread import measure_spread


def ranking(annotator: str, order: str, prompt_id: str) -> Ranking:
    return Ranking(
        f"{prompt_id}-{annotator}", prompt_id, annotator, tuple(tuple(group) for group in order.split())
    )


def a_team() -> list[Ranking]:
    """4 and 5 agree on both prompts, 9 sees the first one the other way round."""
    orders = {"p1": ("a b c", "a b c", "c b a"), "p2": ("a b", "a b", "a b")}
    return [
        ranking(annotator, order, prompt_id)
        for prompt_id, own in orders.items()
        for annotator, order in zip(("4", "5", "9"), own, strict=True)
    ]


def values(data: Data) -> dict[str, str]:
    return {en: value for _, en, value in data_rows(data)}


def test_nothing_measured_has_no_rows() -> None:
    assert data_rows(Data()) == []
    assert data_rows(Data(team=measure_agreement([]).to_json())) == []
    assert data_rows(Data(spread=measure_spread([]).to_json())) == []
    assert data_rows(Data(reward={"coverage": measure_coverage([], {}).to_json()})) == []


def test_agreement_of_the_team_and_who_stands_apart() -> None:
    found = values(Data(team=measure_agreement(a_team()).to_json()))
    # on p1 3 of 9 judgements agree, on p2 all 3; the mean τ of 1, −1, −1 and three times 1
    assert found["two annotators agree"].startswith("50%, τ 0.33 (12 ")
    assert found["prompts with more disagreement than agreement"] == "1 / 2"
    # 9 agrees in none of three pairs on p1 and in the one on p2
    assert found["each annotator and the rest"].startswith("#9: 25%, τ 0.00, 2 ")
    assert found["every two annotators"].startswith("#4 – #9: 25%")
    assert "Krippendorff's α (1 perfect, 0 chance)" in found


def test_later_rounds_say_who_wrote_what_and_what_older_rankings_weigh() -> None:
    rounds = [{"round": 1, "rankings": 67, "weight": 0.8}, {"round": 2, "rankings": 60, "weight": 1.0}]
    spread = {
        **measure_spread([]).to_json(), "prompts": 54, "answers": 162, "similarity": 0.2, "length_ratio": 2.0,
        "policies": {"policy-team-1": 70, "base": 92}, "mixed_prompts": 51,
    }  # fmt: skip
    found = values(Data(reward={"chosen": {"rounds": rounds}}, spread=spread))
    assert found["rankings of each round, and their weight"] == "#1: 67 × 0.8, #2: 60 × 1"
    assert found["answers by the model that wrote them"].startswith("base 92, policy-team-1 70; ")
    assert "51 / 54" in found["answers by the model that wrote them"]
    first = values(Data(reward={"chosen": {"rounds": rounds[:1]}}))
    assert "rankings of each round, and their weight" not in first


def test_two_annotators_are_not_told_apart() -> None:
    team = measure_agreement([ranking("4", "a b", "p1"), ranking("5", "a b", "p1")]).to_json()
    found = values(Data(team=team))
    assert found["two annotators agree"].startswith("100%")
    assert "each annotator and the rest" not in found


def test_of_many_annotators_those_who_agree_least_are_shown() -> None:
    made = [ranking(str(n), "a b" if n % 2 else "b a", "p1") for n in range(12)]
    shown = values(Data(team=measure_agreement(made).to_json()))["every two annotators"]
    assert shown.count("#") == 16 and shown.endswith("…")
    assert "100%" not in shown


def test_suspicious_rankings_are_counted() -> None:
    assert values(Data(rankings=40, suspicious=3)) == {
        "rankings submitted at once in the displayed order": "3 / 40"
    }


def test_spread_of_the_candidates() -> None:
    entry = Candidates(
        Prompt("p1", "why?"),
        (
            Response("a", "p1", "x" * 10, "base", style="brief"),
            Response("b", "p1", "长" * 25, "base", style="brief"),
        ),
    )
    found = values(Data(spread=measure_spread([entry]).to_json()))
    assert found["likeness of a prompt's answers (0 to 1)"] == "0.00; 大同小异 variants of one: 0 / 1"
    assert found["prompts with one style only"] == "1 / 1"
    assert found["longest to shortest answer"] == "2.5 : 1"
    assert found["answers not in the prompt's language"] == "1 / 2"
    assert "英文 English 10 – 10 – 10" in found["characters an answer (10 % – median – 90 %)"]


COVERAGE: dict[str, Any] = {
    "scenarios": [
        {"prompt_id": f"p{n}", "prompts": 20, "unseen": 5, "rankings": 4 * n, "thin": n == 1}
        for n in range(1, 5)
    ],
    "unseen": 40,
    "far": 6,
    "far_prompts": ["p8", "p9"],
}


def test_scenarios_are_named_by_their_prompts() -> None:
    data = Data(reward={"coverage": COVERAGE}, prompts={"p1": "Where is\nmy parcel?", "p8": "长" * 99})
    found = values(data)
    fewest = found["scenarios with the fewest rankings, of 4"]
    assert fewest.startswith("“Where is my parcel?”: 4 ") and "“p3”: 12 " in fewest and "p4" not in fewest
    far = found["unseen prompts far from all learned ones"]
    assert far == f"6 / 40: “{'长' * 40}…”, “p9”"
    assert named_prompts(data.reward) == {"p1", "p2", "p3", "p4", "p8", "p9"}


def test_prompts_are_text_in_the_report() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    rows = data_rows(Data(reward={"coverage": COVERAGE}, prompts={"p1": hostile}))
    report = Report("T", 1, "m", judge_round([], []), data=rows)
    assert "&lt;img src=x" in to_html(report) and "<img" not in to_html(report)
    assert hostile in to_text(report)
    assert quoted([], {}) == ""


def reported(service: Service, number: int | None = None) -> dict[str, str]:
    """What the report of a round, or of the newest, says about its data."""
    with service.store.reading() as session:
        current = next(own for own in rounds(session, "team")[::-1] if number in (None, own.number))
        report = build_report(session, service.settings, current)
    return {en: value for _, en, value in report.data}


def test_report_of_a_round_shows_its_data(tmp_path: Path) -> None:
    service = seeded(tmp_path / "data")
    with service.store.session() as session:
        run = session.query(RunRow).filter_by(kind="reward").one()
        team = measure_agreement(a_team()).to_json()
        run.result = {**(run.result or {}), "team": team, "coverage": COVERAGE}
        session.add(PromptRow(workspace="team", prompt_id="p8", text="Which prize?", split="unseen"))
    found = reported(service)
    assert found["two annotators agree"].startswith("50%")
    assert "“Which prize?”" in found["unseen prompts far from all learned ones"]


def test_report_shows_agreement_before_a_training_measured_it(tmp_path: Path) -> None:
    service = seeded(tmp_path / "data")
    with service.store.session() as session:
        run = session.query(RunRow).filter_by(kind="reward").one()
        assert "team" not in (run.result or {})
        first = session.query(RankingRow).filter_by(state="active").first()
        assert first is not None
        session.add(
            RankingRow(
                annotation_id=9_999, workspace="team", task=first.task, prompt_id=first.prompt_id,
                annotator=99, updated_at="", result_hash="", state="active", order=first.order[::-1],
            )
        )  # fmt: skip
    found = reported(service)
    assert found["two annotators agree"].startswith("0%")
    assert found["prompts with more disagreement than agreement"] == "1 / 1"


def test_report_describes_what_there_was_to_rank_in_its_round_and_the_ones_before(tmp_path: Path) -> None:
    service = seeded(tmp_path / "data")
    assert reported(service)["likeness of a prompt's answers (0 to 1)"].endswith(" / 150")
    assert "answers by the model that wrote them" not in reported(service)
    with service.store.session() as session:
        session.add(RoundRow(id="team-r2", workspace="team", number=2, state="collecting"))
        for name, state in (("new", "published"), ("gone", "deleted")):
            session.add(
                PromptRow(
                    workspace="team", prompt_id=name, text="Which prize?", split="train", state=state,
                    round=2, likeness=0.7,
                )
            )  # fmt: skip
            session.add_all(
                ResponseRow(
                    id=f"{name}{n}", workspace="team", prompt_id=name, text=text, policy="policy-team-1"
                )
                for n, text in enumerate(("The first one.", "None at all, sorry."))
            )
        session.add(
            RunRow(
                id="generate-2", workspace="team", kind="generate", dataset_hash="two", state="succeeded",
                result={"spread": measure_spread([]).to_json()},
            )
        )  # fmt: skip
        session.add(
            RankingRow(
                annotation_id=9_999, workspace="team", task=9, prompt_id="new", annotator=1, updated_at="",
                result_hash="", state="active", order=[["new0"], ["new1"]],
            )
        )  # fmt: skip
    first, found = reported(service, 1), reported(service)
    assert first["likeness of a prompt's answers (0 to 1)"].endswith(" / 150")
    assert first["rankings submitted at once in the displayed order"] == "0 / 132"
    assert found["rankings submitted at once in the displayed order"] == "0 / 133"
    assert found["likeness of a prompt's answers (0 to 1)"].endswith(" / 151")
    assert found["answers by the model that wrote them"].startswith("base 450, policy-team-1 2; ")

"""The report's numbers, and that hostile text stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any, get_args

from backend.advice import Advice
from backend.report import EXAMPLES, Example, Report, to_html, to_text
from backend.report_ppo import STOPS, stop_words
from backend.status import ActionView
from trainers.verification import StopReason

VERDICT: dict[str, Any] = {
    "verdict": "better", "seen": {"wins": 12, "ties": 2, "losses": 1},
    "unseen": {"wins": 18, "ties": 3, "losses": 4}, "win_rate": 0.8125, "interval": [0.66, 0.9],
    "p_value": 0.0003, "p_seen": 0.0034, "p_unseen": 0.0043, "judged": 40, "comparisons": 40,
    "length_before": 112.4, "length_after": 31.2,
}  # fmt: skip
HOSTILE = '<script>alert(1)</script><img src="http://169.254.169.254/" onerror=x>&"\''
REPORT = Report(
    title="Team", number=2, model="policy-team-2", verdict=VERDICT,
    reward={"accuracy": 0.91, "interval": [0.85, 0.95]},
    ppo={"reward_before": -1.0, "reward_after": 2.5, "updates": 24, "best_update": 20, "kl": 1.24,
         "stop_reason": "kl", "stop_measured": 8.312, "stop_limit": 8.0},
    compare={"garbled_after": 0.01},
    advice=[Advice("promote", "启用它", "promote it")],
    examples=[Example("How are you?", "I am very well indeed.", "Fine!", True, "after")],
)  # fmt: skip


def parsed(report: Report) -> ET.Element:
    return ET.fromstring(to_html(report))  # noqa: S314 - our own output


def test_report_is_well_formed_and_shows_every_number_in_both_languages() -> None:
    text = "".join(parsed(REPORT).itertext())
    for shown in ("新模型更好", "The new model is better", "12 / 2 / 1", "18 / 3 / 4", "81% (66% – 90%)",
                  "p = 0.0003", "112 → 31", "91% (85% – 95%)", "-1.00 → 2.50", "24 (采用 kept: 20)", "1.24",
                  "KL grew too large: 8.31, 界限 limit 8", "1.0%",
                  "启用它", "promote it", "Fine!", "Round 2", "policy-team-2"):  # fmt: skip
        assert shown in text, shown


def test_report_says_what_its_model_is_compared_with() -> None:
    assert "compared with: policy-team-1" in to_text(replace(REPORT, before="policy-team-1"))
    assert "compared with" not in to_text(REPORT)


def test_every_section_has_a_heading_larger_than_its_text() -> None:
    headings = list(parsed(replace(REPORT, data=[("数", "number", "1")])).iter("h3"))
    assert len(headings) >= 5
    assert {heading.get("style", "").partition(";")[0] for heading in headings} == {"font-size: 1.15em"}


def test_bars_are_as_wide_as_the_counts() -> None:
    seen = next(parsed(REPORT).iter("svg"))
    assert [rect.get("width") for rect in seen] == ["320", "256.0", "42.7", "21.3"]  # of 320: 12, 2, 1 of 15


def test_hostile_text_stays_text() -> None:
    hostile = replace(
        REPORT, title=HOSTILE, model=HOSTILE, advice=[Advice("x", HOSTILE, HOSTILE)],
        examples=[Example(HOSTILE, HOSTILE, HOSTILE, False, HOSTILE)],
        ppo={**REPORT.ppo, "stop_reason": HOSTILE}, reason=(HOSTILE, HOSTILE),
        actions=[ActionView(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, "team-r2", HOSTILE, 0.0)],
    )  # fmt: skip
    tags = {element.tag for element in parsed(hostile).iter()}
    plain = {"div", "h2", "h3", "p", "span", "table", "tr", "td", "th", "b", "small", "ul", "li", "br"}
    assert tags <= plain | {"svg", "rect", "line", "text", "circle", "polyline"}
    assert "<script" not in to_html(hostile) and "<img" not in to_html(hostile)


def test_unjudged_round_has_a_report() -> None:
    none = {"wins": 0, "ties": 0, "losses": 0}
    verdict = {**VERDICT, "verdict": "not_enough_evidence", "seen": none, "unseen": none, "win_rate": None}
    verdict |= {"length_before": None, "length_after": None}
    text = to_text(Report("T", 1, "m", verdict))
    assert "证据不足" in text and "—" in text
    assert "Not enough evidence" in to_html(Report("T", 1, "m", verdict))


def test_long_examples_are_cut_and_only_a_few_are_shown() -> None:
    many = replace(REPORT, examples=[Example("q", "长" * 5000, "a", True, "tie")] * 50)
    html = to_html(many)
    assert html.count("长" * 600 + "…") == EXAMPLES and "长" * 601 not in html


REWARD: dict[str, Any] = {
    "accuracy": 0.9, "interval": [0.84, 0.94], "clustered_interval": [0.82, 0.96], "pairs": 140,
    "outcome": "not_enough_evidence", "rankings_needed": 30, "agreement": 0.83, "ceiling": 0.91,
    "best_baseline": "shorter", "baseline_shorter": 0.93, "baseline_shorter_interval": [0.88, 0.96],
    "baseline_longer": 0.07, "baseline_longer_interval": [0.04, 0.12], "beats_baselines": False,
    "length_correlation": -0.61,
    "calibration": {
        "error": 0.051, "noise": 0.032,
        "points": [
            {"predicted": 0.55, "observed": 0.5, "pairs": 35},
            {"predicted": 0.9, "observed": 0.75, "pairs": 140},
        ],
    },
    "accuracy_by_kind": {
        "style": {"same": {"accuracy": 0.6, "pairs": 20}, "different": {"accuracy": 0.95, "pairs": 120}}
    },
}  # fmt: skip


def test_reward_model_is_shown_with_its_bounds_what_it_must_beat_and_where_it_holds() -> None:
    text = "".join(parsed(replace(REPORT, reward=REWARD)).itertext())
    for shown in ("90% (84% – 94%); 按题目抽样 by prompts 82% – 96%; 140 对 pairs",
                  "证据不足 not enough evidence", "about 30 more rankings",
                  "91% (两人一致 two people agree 83%)", "-0.61",
                  "shorter wins: 93% (88% – 96%)", "not clearly beaten", "longer wins: 7% (4% – 12%)",
                  "5.1%", "3.2%", "same 60% (20), ", "different 95% (120)"):  # fmt: skip
        assert shown in text, shown
        if "%" in shown:
            assert shown in to_text(replace(REPORT, reward=REWARD)), shown
    beaten = replace(REPORT, reward={**REWARD, "beats_baselines": True})
    assert "模型明显更好 clearly beaten" in to_text(beaten)


def test_calibration_is_a_plot_of_predicted_against_observed() -> None:
    plot = next(
        svg for svg in parsed(replace(REPORT, reward=REWARD)).iter("svg") if svg.find("circle") is not None
    )
    dots = [(dot.get("cx"), dot.get("cy"), dot.get("r")) for dot in plot.iter("circle")]
    # 180 wide from 50 % at x = 42 to 100 %, 180 high from 100 % at y = 7 to 0 %
    assert dots == [("60.0", "97.0", "5.0"), ("186.0", "52.0", "7.0")]
    diagonal = next(line for line in plot.iter("line") if line.get("stroke-dasharray") == "4 4")
    assert [diagonal.get(end) for end in ("x1", "y1", "x2", "y2")] == ["42.0", "97.0", "222.0", "7.0"]


def test_calibration_of_too_few_pairs_has_no_plot() -> None:
    one = {
        **REWARD,
        "calibration": {"error": 0.1, "noise": 0.1, "points": REWARD["calibration"]["points"][:1]},
    }
    assert "Calibration" not in to_html(replace(REPORT, reward=one))


def test_action_is_shown_with_what_it_changed_and_why() -> None:
    action = ActionView(
        "kl_stop", "为何", "why", "KL 系数 0.1 → 0.2", "KL 0.1 → 0.2", "team-r2", "ppo-1", 0.0
    )
    report = replace(REPORT, actions=[action])
    for text in ("".join(parsed(report).itertext()), to_text(report)):
        for shown in ("为何", "why", "KL 系数 0.1 → 0.2", "KL 0.1 → 0.2", "ppo-1"):
            assert shown in text, shown


def test_advice_is_shown_with_the_command_that_applies_it() -> None:
    able = Advice("kl_stop", "停", "stop", "smaller_steps", "学习率减半", "half the rate")
    report = replace(
        REPORT, advice=[able, Advice("few_prompts", "少", "few", "import_prompts", "导入", "import")]
    )
    text = to_text(report)
    assert "python -m backend apply kl_stop" in text and "apply few_prompts" not in text
    assert "half the rate" in to_html(report) and "学习率减半" in to_html(report)


def test_text_form_says_the_same() -> None:
    text = to_text(REPORT)
    for shown in ("新模型更好", "12 胜 wins", "18 胜 wins", "81%", "promote it"):
        assert shown in text


def test_every_reason_to_end_ppo_has_words() -> None:
    assert set(STOPS) == set(get_args(StopReason))
    assert stop_words({"stop_reason": "converged", "stop_measured": 6, "stop_limit": 6}) == STOPS["converged"]

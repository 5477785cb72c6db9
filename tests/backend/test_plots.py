"""The plots show the numbers where they belong."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from backend.plots import accuracy_plot, look_plots, plots

REWARD = {
    "accuracy": 0.9, "interval": [0.8, 1.0], "ceiling": 0.95,
    "baseline_longer": 0.25, "baseline_longer_interval": [0.0, 0.5],
}  # fmt: skip
LOOKS = [
    {"update": update, "score": score, "kl": 1e-7 + 0.1 * update}
    for update, score in ((0, -1), (4, 3), (8, 1))
]


def parsed(plot: str) -> ET.Element:
    return ET.fromstring(f"<div>{plot}</div>")  # noqa: S314 - our own output


def numbers(element: ET.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


def test_accuracy_is_a_bar_over_its_interval_and_the_gate_a_line() -> None:
    plot = parsed(accuracy_plot(REWARD, 0.85))
    bars = [numbers(rect, "x", "width") for rect in plot.iter("rect")]
    # 110 + 220 a share: interval 0.8-1.0, value 0.9 in the middle of 3 px, and the same for 0-0.5 and 0.25
    assert bars == [[286.0, 44.0], [306.5, 3.0], [110.0, 110.0], [163.5, 3.0]]
    lines = [numbers(line, "x1")[0] for line in plot.iter("line")]
    assert lines[:2] == pytest.approx([110 + 220 * 0.85, 110 + 220 * 0.95])
    assert "gate 85%" in "".join(plot.itertext()) and "ceiling 95%" in "".join(plot.itertext())


def test_curve_runs_from_the_lowest_to_the_highest_and_marks_what_was_kept() -> None:
    score, kl = (parsed(plot) for plot in look_plots(LOOKS, 4))
    (line,) = score.iter("polyline")
    assert line.get("points") == "42.0,187.0 132.0,7.0 222.0,97.0"
    assert [numbers(circle, "cx", "cy") for circle in score.iter("circle")] == [[132, 7]]
    assert [text.text for text in score.iter("text")] == ["0", "8", "-1", "3"]
    assert [text.text for text in kl.iter("text")] == ["0", "8", "0", "0.8"]


def test_what_was_not_measured_has_no_plot() -> None:
    assert plots({}, {}, 0.85) == ""
    assert plots({"accuracy": None, "interval": [0.0, 1.0]}, {"looks": LOOKS[:1]}, 0.85) == ""
    flat = [{"update": update, "score": 1.0, "kl": 0.0} for update in (0, 4)]
    assert all("nan" not in plot for plot in look_plots(flat, 0))

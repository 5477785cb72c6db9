"""The benchmark: every measure at a tiny size on our side, and what is computed from the runs."""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from scripts.benchmark import __main__ as program
from scripts.benchmark import page, peers, runner
from scripts.benchmark.measure import Input
from scripts.benchmark.measures import MEASURES, growth, ppo_to_reward
from scripts.benchmark.measures.ppo_update import LORA, random_model
from scripts.benchmark.page import BEGIN, END, read_results, rows_of, section, table_row, with_results
from scripts.benchmark.programs import meter
from scripts.benchmark.programs import random_model as random_model_program
from scripts.benchmark.programs.floor import necessary_flops
from scripts.benchmark.programs.target import Ended, Target, brevity
from scripts.benchmark.results import (
    BenchmarkError,
    Goal,
    Results,
    Row,
    Run,
    Spread,
    compare,
    require_equal_work,
)
from scripts.display import Display
from scripts.setup_environment import ROOT
from trainers.models import load_policy, load_tokenizer
from trainers.sampling import sample

OURS, PEER = LORA
PROGRAMS = sorted((ROOT / "scripts" / "benchmark" / "programs").glob("*.py"))
MACHINE = "2 CPU cores"


def in_this_process(name: str, options: Mapping[str, Any], _python: Path, _log: Path) -> dict[str, float]:
    """A program without the seconds that a new process takes to import torch."""
    module = importlib.import_module(f"scripts.benchmark.programs.{name}")
    figures: dict[str, float] = module.measure(json.loads(json.dumps(options)))
    return figures


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


def quiet() -> Display:
    return Display(Console(quiet=True))


def update_runs(ours: list[float], peer: list[float], figure: str = "seconds") -> list[Run]:
    sides = ((PEER, peer), (OURS, ours))
    return [Run("3.2M", side, seed, {figure: v}) for side, values in sides for seed, v in enumerate(values)]


def a_row(runs: list[Run], goal: Goal | None = None, **changes: Any) -> Row:
    arguments = {"what": "an update", "unit": "s", "ratio": "peer / ours", "goal": goal} | changes
    return compare(runs, "3.2M", LORA, "seconds", **arguments)


# Every measure, for real


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.filterwarnings("default")
def test_our_side_of_every_measure_runs_and_gives_rows(name: str, inputs: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        found = runner.carry_out(
            MEASURES[name], "quick", range(1), quiet(), with_peers=False, inputs=inputs, run=in_this_process
        )
    finally:
        torch.set_num_threads(threads)
    assert Results.read(found.write(tmp_path)) == found
    rows = rows_of(found)
    assert rows
    assert all(row.ours.middle > 0 for row in rows if "memory" not in row.what)  # may not grow at this size
    assert all(row.ratio is None for row in rows)
    assert all(row.reached is None for row in rows if row.against)


@pytest.mark.slow
def test_program_runs_in_a_process_of_its_own_at_one_thread(tmp_path: Path) -> None:
    assert (
        program.main(["ppo-vocabulary", "--quick", "--seeds", "1", "--without-peers", "--out", str(tmp_path)])
        == 0
    )
    runs = Results.read(tmp_path / "ppo-vocabulary.json").runs
    assert [run.side for run in runs] == [OURS]
    assert runs[0].figures["response_tokens"] == 64  # 8 responses of 8 tokens
    assert runs[0].figures["optimizer_steps"] == 2  # 1 epoch of 2 mini-batches


def test_failing_program_shows_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)No module named .*no_such.*program\.log"):
        runner.run_program("no_such", {}, Path(sys.executable), tmp_path / "program.log")


def test_input_is_made_once_and_again_for_other_options(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str, options: Mapping[str, Any], *_: Path) -> dict[str, float]:
        made.append(name)
        Path(options["out"], "file").write_text("content")
        return {}

    maker = runner._Maker(tmp_path, make)
    inner = Input("inner", "one", {"size": 1})
    first = maker.resolved({"data": Input("outer", "two", {"data": inner})})
    assert made == ["one", "two"]
    assert Path(first["data"], "file").read_text() == "content"
    assert maker.resolved({"data": Input("outer", "two", {"data": inner})}) == first
    assert made == ["one", "two"]
    other = Input("inner", "one", {"size": 2})
    assert maker.resolved({"data": Input("outer", "two", {"data": other})}) != first
    assert made == ["one", "two", "one", "two"]


def test_input_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    def fail(_name: str, options: Mapping[str, Any], *_: Path) -> dict[str, float]:
        Path(options["out"], "half").touch()
        raise KeyboardInterrupt

    wanted = {"data": Input("data", "one", {})}
    with pytest.raises(KeyboardInterrupt):
        runner._Maker(tmp_path, fail).resolved(wanted)
    found = runner._Maker(tmp_path, lambda *_: {}).resolved(wanted)
    assert list(Path(found["data"]).iterdir()) == []


# The peers' programs, without the peers


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_compiles(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_programs_of_the_peers_environment_import_nothing_that_it_lacks() -> None:
    pinned = {line.partition("==")[0] for line in peers.PINNED.read_text().splitlines()}
    waiting, seen = ["trl_ppo", "trl_ppo_to_reward"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        tree = ast.parse((PROGRAMS[0].parent / f"{name}.py").read_text(encoding="utf-8"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in found:
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for module in filter(None, modules):
                top = module.partition(".")[0]
                assert top in pinned | set(sys.stdlib_module_names) | {"scripts"}, f"{name} imports {module}"
                if module == "scripts.benchmark.programs":
                    waiting += [alias.name for alias in node.names if alias.name not in seen]
                elif top == "scripts":
                    assert module.startswith("scripts.benchmark.programs."), f"{name} imports {module}"
                    waiting += [module.rpartition(".")[2]] * (module.rpartition(".")[2] not in seen)
    assert seen == {"trl_ppo", "trl_ppo_to_reward", "meter", "devices", "target"}


def test_peer_and_ours_are_told_the_same() -> None:
    for scale in ("full", "quick"):
        for measure in MEASURES.values():
            by_case: dict[tuple[str, object], list[dict[str, Any]]] = {}
            for job in measure.jobs(scale):
                own = {k: v for k, v in job.options.items() if k not in ("way", "learning_rate")}
                by_case.setdefault((job.case, job.options.get("tuning")), []).append(own)
            assert all(own == options[0] for options in by_case.values() for own in options)


def test_peers_environment_is_made_again_when_its_versions_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = peers.trl_1_12("").fingerprint()
    assert peers.trl_1_12("https://index.example").fingerprint() != before
    changed = tmp_path / "pinned.txt"
    changed.write_text(peers.PINNED.read_text().replace("trl==1.12.0", "trl==1.12.1"))
    monkeypatch.setattr(peers, "PINNED", changed)
    assert peers.trl_1_12("").fingerprint() != before


def test_peer_has_the_projects_versions_but_for_trl() -> None:
    def versions(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if "==" in line]
        return dict(line.split("==") for line in lines)

    ours = versions(ROOT / "requirements" / "backend.txt") | versions(ROOT / "requirements" / "torch.txt")
    of_peer = versions(peers.PINNED)
    assert of_peer.pop("trl") == "1.12.0"
    assert of_peer == {name: ours[name] for name in of_peer}


# What is computed from the runs


def test_ratio_is_of_medians_and_its_spread_of_pairs() -> None:
    row = a_row(update_runs(ours=[1.0, 2.0, 4.0], peer=[6.0, 6.0, 8.0]))
    # medians 2 and 6; pairs 6/1, 6/2, 8/4
    assert row.ratio == Spread(3.0, 2.0, 6.0)
    assert row.ours == Spread(2.0, 1.0, 4.0)
    turned = a_row(update_runs(ours=[1.0, 2.0, 4.0], peer=[6.0, 6.0, 8.0]), ratio="ours / peer")
    assert turned.ratio == Spread(2 / 6, 1 / 6, 0.5)


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Goal("at least", 3.0), True),
        (Goal("at least", 3.1), False),
        (Goal("at most", 2.9), False),
        (None, None),
    ],
)
def test_goal_is_held_against_the_ratio_of_medians(goal: Goal | None, reached: bool | None) -> None:
    assert a_row(update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0]), goal).reached is reached


def test_goal_without_a_peers_runs_is_neither_reached_nor_missed() -> None:
    row = a_row(update_runs([1.0], []), Goal("at least", 3.0))
    assert row.reached is None
    assert row.ratio is None


def test_sides_that_did_unequal_work_are_no_measurement() -> None:
    runs = update_runs([1536.0], [1536.0], "response_tokens")
    require_equal_work(runs, "3.2M", ["response_tokens", "optimizer_steps"])
    with pytest.raises(BenchmarkError, match=r"unequal work, `response_tokens` is .* PEFT 1500, ours 1536"):
        require_equal_work(update_runs([1536.0], [1500.0], "response_tokens"), "3.2M", ["response_tokens"])


def test_peers_best_step_size_counts_and_reaching_the_target_comes_first() -> None:
    def run(side: str, seconds: float, reached: float) -> Run:
        return Run(ppo_to_reward.CASE, side, 0, {"seconds": seconds, "reached": reached})

    slow, fast, cut_off = (ppo_to_reward.side_of(step) for step in ppo_to_reward.PEER_STEPS)
    runs = [run(slow, 30, 1), run(fast, 20, 1), run(cut_off, 5, 0), run("ours", 8, 1)]
    assert ppo_to_reward.best_peer(runs) == fast
    (row,) = MEASURES["ppo-to-reward"].rows(runs)
    assert row.ratio == Spread(2.5, 2.5, 2.5)
    assert row.reached
    (row,) = MEASURES["ppo-to-reward"].rows([*runs[:3], run("ours", 8, 0)])
    assert row.ratio is None
    assert "ours did not get there" in row.note


def test_slope_of_growth_is_the_exponent() -> None:
    assert growth.slope([(1, 3.0), (4, 12.0), (16, 48.0)]) == pytest.approx(1)
    assert growth.slope([(1, 5.0), (4, 80.0), (16, 1280.0)]) == pytest.approx(2)
    # 1, 4 and 4: halves of ln 16 on both sides of the middle, (ln 4 - 0) / (2 ln 4)
    assert growth.slope([(1, 1.0), (4, 4.0), (16, 4.0)]) == pytest.approx(0.5)


def test_necessary_operations_of_a_model_counted_by_hand() -> None:
    """1 layer, width 2, 1 head of 2, inner 3, 5 tokens in the vocabulary; prompt 1, response 2, rank 1."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=2, num_attention_heads=1, num_key_value_heads=1, head_dim=2, intermediate_size=3,
        num_hidden_layers=1, vocab_size=5,
    )  # fmt: skip
    # weights 4·(2·2) + 3·(2·3) = 34, of query, key and value 12; adapters 4·(2+2) + 3·(2+3) = 31
    # 2 tokens are read: forward 2·34·2 = 136 and attention 4·2·(1+2) = 24; logits of 2: 2·2·5·2 = 40
    # sampling and reference 2·(160+40) = 400; reward of 4 tokens 2·34·4 + 24 = 296
    # an epoch: 160 + 40, back 2·(34-12)·2 + 2·24 + 40 = 176, adapters 3·2·31·2 = 372
    counted = necessary_flops(config, 1, {"response_tokens": 2, "lora_rank": 1, "epochs": 3})
    assert counted == 400 + 296 + 3 * (160 + 40 + 176 + 372)


# What the programs are made of


def test_random_model_never_ends_a_response(inputs: Path) -> None:
    options = random_model(64, 2, 200, prompts=8).options
    out = inputs / "never-ends"
    out.mkdir()
    random_model_program.measure({**options, "out": str(out)})
    tokenizer, policy = load_tokenizer(out / "base"), load_policy(str(out / "base"))
    rollout = sample(
        policy, tokenizer, [[1, 2, 3]] * 64, max_new_tokens=64, temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not bool(rollout.finished.any())
    assert int(rollout.lengths.min()) == 64
    assert not bool(torch.isin(rollout.response_ids, torch.tensor([198, 199])).any())  # pad and end
    assert len(rollout.response_ids.unique()) > 150
    texts = tokenizer.batch_decode(rollout.response_ids)
    assert tokenizer(texts)["input_ids"] == rollout.response_ids.tolist()


def test_warm_up_and_pauses_do_not_count() -> None:
    ticks = iter([0.0, 10.0, 13.0, 18.0])
    updates = meter.Updates(warm_up=1, now=lambda: next(ticks))
    updates.begin()
    for _ in range(3):
        updates.end()
    assert updates.figures()["seconds"] == 4.0  # 3 and 5, without 10
    ticks = iter([0.0, 2.0, 7.0, 9.0])
    clock = meter.CpuClock(lambda: next(ticks))
    with clock.paused():  # from 2 to 7
        pass
    assert clock.seconds() == 4.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_is_the_growth_of_the_peak() -> None:
    memory = meter.Memory()
    block = bytearray(64 * 2**20)
    del block
    assert 60 < memory.figures()["memory_growth_mib"] < 90
    assert meter.Memory().figures()["memory_growth_mib"] < 8


def test_target_ends_when_three_updates_in_a_row_are_high_enough_on_average() -> None:
    assert brevity("x" * 20) == pytest.approx(-math.log(20))
    assert brevity("") == pytest.approx(-math.log(10))
    target = Target(-math.log(30), most_updates=10)
    target.begin()
    assert target.scores(["x" * 40, "x" * 40]) == [pytest.approx(-math.log(40))] * 2
    target.scores(["x" * 30])
    target.scores(["x" * 25])  # mean of the three: the logarithm of (40·30·25)^(1/3) = 31.07
    with pytest.raises(Ended):
        target.scores(["x" * 30])  # 28.2
    figures = target.figures()
    assert (figures["reached"], figures["updates"]) == (1.0, 4.0)


def test_target_that_is_never_reached_ends_after_the_last_update() -> None:
    target = Target(0.0, most_updates=2)
    target.scores(["long enough an answer"])
    with pytest.raises(Ended):
        target.scores(["long enough an answer"])
    assert target.figures()["reached"] == 0.0


# The page


@pytest.fixture
def results() -> list[Results]:
    runs = [*update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0])]
    runs = [replace(run, figures={**run.figures, "memory_growth_mib": 100.0 + run.seed}) for run in runs]
    runs += [replace(run, side=side) for run in runs for side in ("ours, full", "TRL 1.12 full") if
             run.side == (OURS if side.startswith("ours") else PEER)]  # fmt: skip
    grown = [
        Run(growth.case_of(axis, factor), "ours", seed, {"seconds": factor, "memory_growth_mib": factor**0.5})
        for axis in growth.AXES
        for factor in growth.FACTORS
        for seed in range(2)
    ]
    return [
        Results("ppo-update", False, MACHINE, tuple(runs)),
        Results("growth", False, MACHINE, tuple(grown)),
    ]


def test_page_is_what_the_results_say() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    results = read_results(page.DIRECTORY)
    assert text == with_results(text, results), "run `python -m scripts.benchmark --page`"
    for name, picture in page._plots(results).items():
        if picture:
            assert (page.DIRECTORY / name).read_text(encoding="utf-8") == picture


def test_table_holds_ratio_spread_goal_and_whether_it_is_reached() -> None:
    row = a_row(update_runs([1.0, 2.0, 4.0], [6.0, 6.0, 8.0]), Goal("at least", 3.5))
    said = table_row(row)
    assert said == f"| an update | 2.00 s | {PEER}: 6.00 s | 3.00 (2.00 to 6.00) | ≥ 3.5 | **no** |\n"


def test_page_is_written_between_its_marks(tmp_path: Path, results: list[Results]) -> None:
    directory, file = tmp_path / "benchmarks", tmp_path / "benchmarks.md"
    for found in results:
        found.write(directory)
    file.write_text(f"Before\n{BEGIN}old\n{END}After\n", encoding="utf-8")
    written = page.write_page(file, directory)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
    assert "old" not in text
    assert "| one PPO update, 3.2M | 2.00 CPU s |" in text
    assert "| growth of memory with prompts | 0.500 slope |" in text
    assert "`gpu` is not measured: no machine with a GPU was at hand" in text
    assert "Measured on 2 CPU cores; 3 seeds: `ppo-update`." in text
    assert written == [file, directory / "ratios.svg", directory / "growth.svg"]


def test_plots_are_svg_with_every_label(results: list[Results]) -> None:
    drawn = page._plots(results)
    for text in drawn.values():
        xml.etree.ElementTree.fromstring(text)  # noqa: S314 - our own
    assert "one PPO update, 3.2M" in drawn["ratios.svg"]
    assert all(axis in drawn["growth.svg"] for axis in growth.AXES)
    assert drawn["growth.svg"].count("<polyline") == 2 * (1 + len(growth.AXES))


def test_quick_runs_never_reach_the_page(tmp_path: Path, results: list[Results]) -> None:
    replace(results[0], quick=True).write(tmp_path)
    with pytest.raises(BenchmarkError, match=r"holds quick runs of \['ppo-update'\]"):
        read_results(tmp_path)


def test_results_without_a_run_say_which_command_fills_the_place() -> None:
    assert "`python -m scripts.benchmark --page` fills this place" in section([])


def test_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "growth.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"growth\.json` cannot be read as a result"):
        read_results(tmp_path)


# The command line


def test_list_names_every_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(MEASURES)


def test_unknown_measure_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["speed"])
    assert ended.value.code == 2
    assert "no measure ['speed']; needed is one of ppo-update" in capsys.readouterr().err


def test_gpu_figures_that_are_missing_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert program.main(["gpu", "--out", str(tmp_path)]) == 0
    assert re.search(r"gpu: its figures are missing, because torch finds no CUDA", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_help_starts_without_torch() -> None:
    code = "import sys; from scripts.benchmark import __main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

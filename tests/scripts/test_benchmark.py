"""The benchmark: every measure at a tiny size on our side, and what is computed from the runs."""

from __future__ import annotations

import ast
import importlib
import json
import math
import mmap
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from scripts.benchmark import __main__ as program
from scripts.benchmark import peers, runner
from scripts.benchmark.measure import Input
from scripts.benchmark.measures import MEASURES
from scripts.benchmark.measures.gpu import GPU
from scripts.benchmark.measures.ppo_update import LORA, random_model
from scripts.benchmark.page import rows_of
from scripts.benchmark.programs import meter
from scripts.benchmark.programs import random_model as random_model_program
from scripts.benchmark.programs.devices import Device
from scripts.benchmark.programs.floor import matrix_product_rate, necessary_flops, value_model_flops
from scripts.benchmark.programs.target import Ended, Target, brevity
from scripts.benchmark.results import (
    BenchmarkError,
    Results,
)
from scripts.display import Display
from scripts.setup_environment import ROOT
from trainers.conversations import load_tokenizer
from trainers.models import load_policy
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
    assert all(math.isfinite(row.ours.middle) for row in rows)
    # at this size neither memory nor time need grow with anything
    assert all(row.ours.middle > 0 for row in rows if "memory" not in row.what and "growth" not in row.what)
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
    assert list(tmp_path.iterdir()) == []
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
            apart = {"way", "every", "learning_rate"} | ({"micro_batch"} if measure is GPU else set())
            for job in measure.jobs(scale):
                own = {k: v for k, v in job.options.items() if k not in apart}
                by_case.setdefault((job.case, job.options.get("tuning")), []).append(own)
            assert all(own == options[0] for options in by_case.values() for own in options)


def test_trl_is_told_everything_that_its_programs_read() -> None:
    programs = ROOT / "scripts" / "benchmark" / "programs"
    sources = {name: (programs / f"{name}.py").read_text() for name in ("trl_ppo", "trl_ppo_to_reward")}
    read = {name: set(re.findall(r'options\["(\w+)"\]', source)) for name, source in sources.items()}
    read["trl_ppo_to_reward"] |= read["trl_ppo"] - {"warm_up"}  # whose trainer it uses
    made = {"trl_ppo": {"seed"}, "trl_ppo_to_reward": {"seed", "updates", "micro_batch", "tuning"}}
    jobs = [job for name in MEASURES for job in MEASURES[name].jobs("full") if job.program in read]
    assert {job.program for job in jobs} == set(read)
    for job in jobs:
        missing = read[job.program] - made[job.program] - set(job.options)
        assert not missing, (job.case, job.side)


def test_peers_environment_is_made_again_when_its_versions_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = tmp_path / "pinned.txt"
    pinned.write_text(peers.PINNED.read_text())
    monkeypatch.setattr(peers, "PINNED", pinned)
    before = peers.trl_1_12("").fingerprint()
    assert peers.trl_1_12("https://index.example").fingerprint() != before
    pinned.write_text(pinned.read_text().replace("trl==1.12.0", "trl==1.12.1"))
    assert peers.trl_1_12("").fingerprint() != before


def test_peer_has_the_projects_versions_but_for_trl() -> None:
    def versions(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if "==" in line]
        return dict(line.split("==") for line in lines)

    ours = versions(ROOT / "requirements" / "backend.txt") | versions(ROOT / "requirements" / "torch.txt")
    of_peer = versions(peers.PINNED)
    assert of_peer.pop("trl") == "1.12.0"
    assert of_peer == {name: ours[name] for name in of_peer}


def test_necessary_operations_of_a_model_counted_by_hand() -> None:
    """1 layer, width 2, 1 head of 2, inner 3, 5 tokens in the vocabulary; prompt 2, response 2, rank 1."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=2, num_attention_heads=1, num_key_value_heads=1, head_dim=2, intermediate_size=3,
        num_hidden_layers=1, vocab_size=5,
    )  # fmt: skip
    # weights: query, key, value and output 2·2 each, gate, up and down 2·3 each; logits of 2: 2·2·5·2 = 40
    # of the 3 tokens that are read, 2 are looked at: 2·(4+4)·3 + 2·(4+4+18)·2 = 152, attention 4·2·(6-1) = 40
    # back: without query, key and value 2·(4+18)·2 = 88, attention 80, logits 40
    # adapters: 2·((4+4)·3 + (4+4)·2 + (5+5+5)·2) = 140, in an epoch three times
    # reward of 5 tokens, of which 1 is looked at: 2·(4+4)·5 + 2·(4+4+18)·1 + 4·2·(15-10) = 172
    # to the first token: 2 are read and 1 is looked at: 2·(4+4)·2 + 2·(4+4+18)·1 + 4·2·(3-1) = 100
    options = {"response_tokens": 2, "lora_rank": 1, "epochs": 3, "trained_layers": 1}
    upper = 152 + 40 + 40 + 3 * (152 + 40 + 40 + 88 + 80 + 40 + 3 * 140)
    assert necessary_flops(config, 2, options) == (152 + 40 + 40 - 100, 100 + 172 + upper)
    # a layer below it, without adapters: only in sampling and the reward, for all tokens
    config.num_hidden_layers = 2
    of_2, of_3, of_5 = (2 * (4 * 4 + 3 * 6) * n + 4 * 2 * n * (n + 1) // 2 for n in (2, 3, 5))
    together = 100 + of_2 + 172 + of_5 + upper
    assert necessary_flops(config, 2, options) == (152 + 40 + 40 - 100 + of_3 - of_2, together)
    # the value model reads 7 tokens, and learns in 25 steps of 512 tokens: (2·2+2)·256 forward, as much back
    assert value_model_flops(config, 7) == 1536 * (7 + 2 * 25 * 512)


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


def test_rate_of_products_smaller_than_a_tick_of_the_clock_is_measured() -> None:
    from transformers import LlamaConfig

    class Coarse(Device):
        def now(self) -> float:
            return math.floor(super().now() * 500) / 500

    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=1)
    threads = torch.get_num_threads()
    try:
        rate = matrix_product_rate(config, 64, Coarse())  # 0.003 GFLOP, thousandths of a tick
    finally:
        torch.set_num_threads(threads)
    assert 1e8 < rate < 1e13


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_is_the_growth_of_the_peak() -> None:
    memory = meter.Memory()
    with mmap.mmap(-1, 64 * 2**20) as block:  # pages of its own, whatever earlier tests gave back
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert 60 < memory.figures()["memory_growth_mib"] < 90
    assert meter.Memory().figures()["memory_growth_mib"] < 8


def test_target_ends_when_three_updates_in_a_row_are_high_enough_on_average() -> None:
    assert brevity("x" * 20) == pytest.approx(-math.log(20))
    assert brevity("") == pytest.approx(-math.log(10))
    target = Target(-math.log(30), most_updates=10)
    target.begin()
    assert target.scores(["x" * 20, "x" * 20]) == [pytest.approx(-math.log(20))] * 2  # high enough, but alone
    target.scores(["x" * 45])
    target.scores(["x" * 45])  # mean of the three: the logarithm of (20·45·45)^(1/3) = 34.3
    target.scores(["x" * 25])  # 37.0
    with pytest.raises(Ended):
        target.scores(["x" * 20])  # 28.2
    figures = target.figures()
    assert (figures["reached"], figures["updates"]) == (1.0, 5.0)


def test_target_that_is_never_reached_ends_after_the_last_update() -> None:
    target = Target(0.0, most_updates=2)
    target.scores(["long enough an answer"])
    with pytest.raises(Ended):
        target.scores(["long enough an answer"])
    assert target.figures()["reached"] == 0.0


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

"""How many rankings a reward model needs to pass its gate, by the order in which the tasks are ranked.

The simulated team ranks answers of the embedded base model, a reward model is trained on what there is so
far, and the gate says whether that is enough; if not, the team ranks on. The model is the real reward stage,
or a linear stand-in that takes milliseconds (`scripts.linear_reward`). The orders:

    random    as they come
    unsure    of all tasks those first whose answers the model can hardly order
    mixed     held-out tasks at random among those to learn from, which come the least sure first
    aim       the kind that the gate lacks first, those to learn from or the held-out ones, each at random
    queue     what the backend writes into Label Studio: the same, but the least sure to learn from first

All orders of a seed have the same answers, the same people and the same first rankings. Each training is a
line of the results, and a run that was interrupted goes on after the last trajectory that is whole.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from scripts.annotators import TASTES, TEAM, Annotator, Taste, find_taste, spread
from scripts.display import Display
from scripts.linear_reward import LinearReward
from scripts.make_base_model import WEIGHTS_DIR
from scripts.prompt_file import read_prompts
from scripts.setup_environment import ROOT
from trainers import generate, reward
from trainers.acquisition import Aim, Unranked, aim_of, places, sureness
from trainers.config import GenerationConfig, RewardConfig
from trainers.errors import DataError
from trainers.evaluation import Outcome, decide_gate, pair_accuracy
from trainers.preferences import derive_preferences, prompt_id, split_of, split_preferences
from trainers.records import Candidates, Prompt, Ranking, read_jsonl, write_jsonl
from trainers.reward import Score
from trainers.run_dir import RunDir

DIRECTORY = ROOT / "var" / "active-learning"
PROMPTS = Path(__file__).with_name("demo_prompts.csv")
CLEAR = 0.05
"""Two answers count for the true accuracy if the taste's scores differ by more than this times the usual."""


@dataclass(frozen=True)
class Trained:
    """One training of a trajectory."""

    model: str
    taste: str
    seed: int
    order: str
    rankings: int
    outcome: str
    """The gate's; `too_little` if the stage refused so few rankings."""
    accuracy: float | None
    """Held-out accuracy, which the gate looked at."""
    pairs: int
    true_accuracy: float | None
    """On all held-out prompts, ranked or not, against the taste itself."""
    last: bool
    """The trajectory ends here: the gate is passed, or the tasks or the limit are used up."""


@dataclass(frozen=True)
class Found:
    """What a training leaves behind."""

    outcome: Outcome
    accuracy: float | None
    pairs: int
    scores: Mapping[str, float]


Train = Callable[[Sequence[Ranking]], Found | None]
"""rankings -> what a training on them leaves; `None` if they are too few."""
Order = Callable[[Sequence[Candidates], Found, random.Random], list[Candidates]]


def at_random(left: Sequence[Candidates], _found: Found, rng: random.Random) -> list[Candidates]:
    return rng.sample(left, len(left))


def unsure_first(left: Sequence[Candidates], found: Found, _rng: random.Random) -> list[Candidates]:
    return sorted(left, key=lambda own: sureness(_scores(own, found)))


def mixed(left: Sequence[Candidates], found: Found, _rng: random.Random) -> list[Candidates]:
    return _placed(left, {own.prompt.id: _scores(own, found) for own in left}, "both")


def aim_at_random(left: Sequence[Candidates], found: Found, rng: random.Random) -> list[Candidates]:
    return _placed(left, {own.prompt.id: (0.0, rng.random()) for own in left}, _aim(found))


def by_queue(left: Sequence[Candidates], found: Found, _rng: random.Random) -> list[Candidates]:
    return _placed(left, {own.prompt.id: _scores(own, found) for own in left}, _aim(found))


ORDERS: dict[str, Order] = {
    "random": at_random,
    "unsure": unsure_first,
    "mixed": mixed,
    "aim": aim_at_random,
    "queue": by_queue,
}


class Team:
    """The simulated people of one seed, the rankings that they would make, and the taste behind them."""

    def __init__(self, taste: Taste, candidates: Sequence[Candidates], seed: int) -> None:
        tasks = [(own.prompt.text, [response.text for response in own.responses]) for own in candidates]
        scale = spread(taste, tasks, seed)
        people = [Annotator(person, taste, seed, scale) for person in TEAM]
        self.rankings: dict[str, Ranking] = {}
        self.true_pairs: list[tuple[str, str]] = []
        """(better, worse) of the held-out prompts."""
        for number, (own, (prompt, answers)) in enumerate(zip(candidates, tasks, strict=True)):
            self.rankings[own.prompt.id] = _ranking(own, people[number % len(people)])
            if own.prompt.split != "train":
                liked = taste(prompt, answers, random.Random(f"{seed}{prompt}"))
                both = itertools.permutations(zip(liked, own.responses, strict=True), 2)
                self.true_pairs += [(a.id, b.id) for (x, a), (y, b) in both if x - y > CLEAR * scale]


class Trajectories:
    """All orders of one model, seed and taste."""

    def __init__(self, model: str, taste: str, seed: int, candidates: Sequence[Candidates]) -> None:
        self.model, self.taste, self.seed = model, taste, seed
        self.candidates = candidates
        self._train_model = MODELS[model](candidates, seed)
        self.team = Team(find_taste(taste), candidates, seed)
        self._trained: dict[frozenset[str], Found | None] = {}

    def run(self, order: str, start: int, step: int, limit: int) -> list[Trained]:
        """Rank and train until the gate is passed."""
        left = random.Random(f"first {self.seed}").sample(self.candidates, len(self.candidates))
        ranked: list[Candidates] = []
        found, lines = None, []
        for target in range(start, limit + step, step):
            if found is not None:
                left = ORDERS[order](left, found, random.Random(f"{self.seed} {target}"))
            more = target - len(ranked)
            ranked, left = ranked + left[:more], left[more:]
            found = self._train(ranked)
            passed = found is not None and found.outcome == "passed"
            last = passed or not left or target >= limit
            lines.append(self._line(order, len(ranked), found, last))
            if last:
                break
        return lines

    def _train(self, ranked: Sequence[Candidates]) -> Found | None:
        """The reward stage on these rankings; `None` if they are too few."""
        key = frozenset(own.prompt.id for own in ranked)
        if key not in self._trained:
            rankings = [self.team.rankings[own.prompt.id] for own in ranked]
            self._trained[key] = self._train_model(rankings)
        return self._trained[key]

    def _line(self, order: str, rankings: int, found: Found | None, last: bool) -> Trained:
        if found is None:
            return Trained(
                self.model, self.taste, self.seed, order, rankings, "too_little", None, 0, None, last
            )
        right = sum(found.scores[better] > found.scores[worse] for better, worse in self.team.true_pairs)
        return Trained(
            self.model, self.taste, self.seed, order, rankings, found.outcome, found.accuracy, found.pairs,
            right / len(self.team.true_pairs), last,
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    display = Display()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    candidates = _candidates(options.out / "candidates", options.prompts)
    for taste, seed in itertools.product(options.taste, options.seeds):
        trajectories = Trajectories(options.model, taste, seed, candidates)
        for order in options.orders:
            if any(_key(line) == (options.model, taste, seed, order) for line in _read(results)):
                continue
            with display.stage(f"{taste}, seed {seed}, {order}") as stage:
                lines = trajectories.run(order, options.start, options.step, options.limit)
                stage.outcome = f"{lines[-1].outcome} at {lines[-1].rankings} rankings"
            with results.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    display.console.print(summary(_read(results)))
    return 0


def summary(lines: Sequence[Trained]) -> Table:
    """A row for each taste and order: rankings at which the gate was passed, and how good the model was."""
    table = Table(
        "taste", "order", "seeds", "passed", "rankings: median (range)", "each seed", "true accuracy"
    )
    ends: dict[tuple[str, str, str], list[Trained]] = defaultdict(list)
    for line in lines:
        if line.last:
            ends[line.model, line.taste, line.order].append(line)
    for name, own in ends.items():
        made = [line.rankings for line in sorted(own, key=lambda line: line.seed)]
        true = [line.true_accuracy for line in own if line.true_accuracy is not None]
        table.add_row(
            *name, str(len(own)), str(sum(line.outcome == "passed" for line in own)),
            f"{statistics.median(made):g} ({min(made)}–{max(made)})", ", ".join(map(str, made)),
            f"{statistics.fmean(true):.1%}" if true else "—",
        )  # fmt: skip
    return table


def _candidates(directory: Path, number: int) -> list[Candidates]:
    """Answers to the demo's prompts; made once."""
    out = RunDir(directory)
    if not (made := out.output("candidates.jsonl")).is_file():
        texts = read_prompts(PROMPTS)[:number]
        write_jsonl(out.input("prompts.jsonl"), [Prompt(prompt_id(t), t, split=split_of(t)) for t in texts])
        generate.run(GenerationConfig(base_model=str(WEIGHTS_DIR), threads=1), out)
    return read_jsonl(made, Candidates)


def _stage(candidates: Sequence[Candidates], seed: int) -> Train:
    """The real reward stage."""

    def train(rankings: Sequence[Ranking]) -> Found | None:
        with tempfile.TemporaryDirectory(prefix="active-learning-") as directory:
            run_dir = RunDir(Path(directory, "run"))
            write_jsonl(run_dir.input("candidates.jsonl"), candidates)
            write_jsonl(run_dir.input("rankings.jsonl"), rankings)
            try:
                result = reward.run(RewardConfig(base_model=str(WEIGHTS_DIR), seed=seed, threads=1), run_dir)
            except DataError:
                return None
            scores = read_jsonl(run_dir.output("scores.jsonl"), Score)
        by_id = {score.response_id: score.score for score in scores}
        return Found(result["outcome"], result["accuracy"], result["pairs"], by_id)

    return train


def _linear(candidates: Sequence[Candidates], _seed: int) -> Train:
    """The stand-in, held against the same gate."""
    model = LinearReward(candidates)
    splits = {own.prompt.id: own.prompt.split for own in candidates}

    def train(rankings: Sequence[Ranking]) -> Found | None:
        learnt, heldout = split_preferences(derive_preferences(rankings, candidates), splits)
        if not learnt or not heldout:
            return None
        scores = model.fit(learnt)
        gate = decide_gate(
            pair_accuracy(heldout, scores),
            gate_accuracy=RewardConfig.gate_accuracy,
            gate_margin=RewardConfig.gate_margin,
        )
        return Found(gate.outcome, gate.accuracy.value, gate.accuracy.pairs, scores)

    return train


MODELS: dict[str, Callable[[Sequence[Candidates], int], Train]] = {"stage": _stage, "linear": _linear}


def _ranking(own: Candidates, who: Annotator) -> Ranking:
    said = who.rank(own.prompt.text, [response.text for response in own.responses])
    ids = tuple(own.responses[place].id for place in said.order)
    order = (ids,) if said.judgement == "tie" else tuple((each,) for each in ids)
    return Ranking(
        f"r{own.prompt.id}", own.prompt.id, who.person.name, order, close=said.judgement == "close"
    )


def _placed(
    left: Sequence[Candidates], scores: Mapping[str, tuple[float, ...]], aim: Aim
) -> list[Candidates]:
    """By `trainers.acquisition`; the scores are those of each prompt's answers."""
    place = places([Unranked(own.prompt.id, own.prompt.split, scores[own.prompt.id]) for own in left], aim)
    return sorted(left, key=lambda own: place[own.prompt.id])


def _aim(found: Found) -> Aim:
    return aim_of(found.outcome, found.accuracy, RewardConfig.gate_accuracy)


def _scores(own: Candidates, found: Found) -> tuple[float, ...]:
    return tuple(found.scores[response.id] for response in own.responses)


def _read(path: Path) -> list[Trained]:
    if not path.is_file():
        return []
    return [Trained(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _key(line: Trained) -> tuple[str, str, int, str]:
    return line.model, line.taste, line.seed, line.order


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.active_learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tastes = sorted(TASTES)
    parser.add_argument("--model", choices=list(MODELS), default="stage", help="default: the real stage")
    parser.add_argument("--taste", nargs="+", choices=tastes, default=["concise"], help="what the team likes")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="default: 0 to 4")
    parser.add_argument(
        "--orders", nargs="+", choices=list(ORDERS), default=list(ORDERS), help="default: all"
    )
    parser.add_argument("--prompts", type=int, default=160, help="how many there are (default: 160)")
    parser.add_argument("--start", type=int, default=20, help="rankings at the first training (default: 20)")
    parser.add_argument("--step", type=int, default=20, help="rankings before the next one (default: 20)")
    parser.add_argument("--limit", type=int, default=160, help="rankings at which to give up (default: 160)")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="default: var/active-learning")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

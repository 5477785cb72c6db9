"""How many rankings a reward model needs to pass its gate, by what is ranked next.

The simulated team ranks answers of the embedded base model, a reward model is trained on what there is so
far, and the gate says whether that is enough; if not, the team ranks on. The model is the real reward stage,
or a linear stand-in that takes milliseconds (`scripts.linear_reward`). The orders:

    random    as they come
    unsure    of all tasks those first whose answers the model can hardly order
    mixed     held-out tasks at random among those to learn from, which come the least sure first
    aim       the kind that the gate lacks first, those to learn from or the held-out ones, each at random
    queue     what the backend writes into Label Studio: the same, but the least sure to learn from first

With `--choices` the prompts after the first training are new ones, and of the answers drawn for them
(`scripts.candidate_choice`) these are ranked:

    drawn        the first ones, without a choice
    random       any
    unsure       those with two answers that the model can hardly order
    informative  those that add most Fisher information to what is ranked already

All trajectories of a seed have the same people and the same first rankings, and all its orders the same
answers. Each training is a line of the results, and a run that was interrupted goes on after the last
trajectory that is whole.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from scripts.annotators import TASTES, TEAM, Annotator, Taste, find_taste, spread
from scripts.candidate_choice import CHOICES, Sets, answers, draw_sets
from scripts.display import Display
from scripts.prompt_file import read_prompts
from scripts.reward_trainings import MODELS, Found
from scripts.setup_environment import ROOT
from trainers.acquisition import Aim, Unranked, aim_of, places, sureness
from trainers.config import RewardConfig
from trainers.preferences import prompt_id, split_of
from trainers.records import Candidates, Prompt, Ranking

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
    choice: str
    rankings: int
    outcome: str
    """The gate's; `too_little` if the stage refused so few rankings."""
    accuracy: float | None
    """Held-out accuracy, which the gate looked at."""
    pairs: int
    true_accuracy: float | None
    """On all held-out prompts, ranked or not, against the taste itself."""
    last: bool
    """The trajectory ends here: at the gate, or where the tasks or the limit are used up."""


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
    """The simulated people of one seed and the taste behind them."""

    def __init__(self, taste: Taste, candidates: Sequence[Candidates], seed: int) -> None:
        tasks = [(own.prompt.text, [response.text for response in own.responses]) for own in candidates]
        scale = spread(taste, tasks, seed)
        people = [Annotator(person, taste, seed, scale) for person in TEAM]
        self._who: dict[str, Annotator] = {}
        self.true_pairs: list[tuple[str, str]] = []
        """(better, worse) of the held-out prompts."""
        for number, (own, (prompt, texts)) in enumerate(zip(candidates, tasks, strict=True)):
            self._who[own.prompt.id] = people[number % len(people)]
            if own.prompt.split != "train":
                liked = taste(prompt, texts, random.Random(f"{seed}{prompt}"))
                both = itertools.permutations(zip(liked, own.responses, strict=True), 2)
                self.true_pairs += [(a.id, b.id) for (x, a), (y, b) in both if x - y > CLEAR * scale]

    def rank(self, own: Candidates) -> Ranking:
        """What the one who has this prompt says about these answers."""
        who = self._who[own.prompt.id]
        said = who.rank(own.prompt.text, [response.text for response in own.responses])
        ids = tuple(own.responses[place].id for place in said.order)
        order = (ids,) if said.judgement == "tie" else tuple((each,) for each in ids)
        return Ranking(
            f"r{own.prompt.id}", own.prompt.id, who.person.name, order, close=said.judgement == "close"
        )


class Trajectories:
    """All orders and choices of one model, seed and taste."""

    def __init__(self, model: str, taste: str, seed: int, sets: Sequence[Sets]) -> None:
        self.model, self.taste, self.seed = model, taste, seed
        self.candidates = [own[0] for own in sets]
        self._sets = {own[0].prompt.id: own for own in sets}
        self._train_model = MODELS[model](_whole(sets), seed)
        self.team = Team(find_taste(taste), self.candidates, seed)
        self._trained: dict[frozenset[str], Found | None] = {}

    def run(
        self, order: str, choice: str, start: int, step: int, limit: int, *, past_gate: bool = False
    ) -> list[Trained]:
        """Rank and train until the gate is passed, or until the limit."""
        left = random.Random(f"first {self.seed}").sample(self.candidates, len(self.candidates))
        ranked: list[Candidates] = []
        found, lines = None, []
        for target in range(start, limit + step, step):
            rng = random.Random(f"{self.seed} {target}")
            if found is not None:
                left = ORDERS[order](left, found, rng)
            more = target - len(ranked)
            new, left = left[:more], left[more:]
            if found is not None:
                new = CHOICES[choice]([self._sets[own.prompt.id] for own in new], found.learnt, rng)
            ranked = ranked + new
            found = self._train(ranked)
            passed = found is not None and found.outcome == "passed"
            last = (passed and not past_gate) or not left or target >= limit
            lines.append(self._line(order, choice, len(ranked), found, last))
            if last:
                break
        return lines

    def _train(self, ranked: Sequence[Candidates]) -> Found | None:
        """The reward stage on rankings of these; `None` if they are too few."""
        key = frozenset(response.id for own in ranked for response in own.responses)
        if key not in self._trained:
            self._trained[key] = self._train_model(ranked, [self.team.rank(own) for own in ranked])
        return self._trained[key]

    def _line(self, order: str, choice: str, rankings: int, found: Found | None, last: bool) -> Trained:
        of = self.model, self.taste, self.seed, order, choice, rankings
        if found is None:
            return Trained(*of, "too_little", None, 0, None, last)
        right = sum(found.scores[better] > found.scores[worse] for better, worse in self.team.true_pairs)
        true_accuracy = right / len(self.team.true_pairs)
        return Trained(*of, found.outcome, found.accuracy, found.pairs, true_accuracy, last)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    display = Display()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    texts = read_prompts(PROMPTS)[: options.prompts]
    prompts = [Prompt(prompt_id(text), text, split=split_of(text)) for text in texts]
    for taste, seed in itertools.product(options.taste, options.seeds):
        made = {_key(line) for line in _read(results)}
        missing = [
            (order, choice)
            for order, choice in itertools.product(options.orders, options.choices or ["drawn"])
            if (options.model, taste, seed, order, choice) not in made
        ]
        if not missing:
            continue
        if options.choices:
            sets = draw_sets(options.out / "sets", prompts, seed, options.draws)
        else:
            sets = [[own] for own in answers(options.out / "candidates", prompts)]
        trajectories = Trajectories(options.model, taste, seed, sets)
        for order, choice in missing:
            with display.stage(f"{taste}, seed {seed}, {order}, {choice}") as stage:
                lines = trajectories.run(
                    order, choice, options.start, options.step, options.limit, past_gate=options.past_gate
                )
                stage.outcome = f"{lines[-1].outcome} at {lines[-1].rankings} rankings"
            with results.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    display.console.print(summary(_read(results)))
    return 0


def summary(lines: Sequence[Trained]) -> Table:
    """A row for each taste, order and choice: rankings at which the gate was passed, how good the model was.

    A trajectory that did not pass counts as where it ended.
    """
    table = Table(
        "model", "taste", "order", "choice", "seeds", "passed", "rankings: median (range)", "each seed",
        "true accuracy at the end",
    )  # fmt: skip
    rows: dict[tuple[str, str, str, str], dict[int, list[Trained]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        rows[line.model, line.taste, line.order, line.choice][line.seed].append(line)
    for name, by_seed in rows.items():
        own = [by_seed[seed] for seed in sorted(by_seed)]
        ends = [next((line for line in each if line.outcome == "passed"), each[-1]) for each in own]
        made = [line.rankings for line in ends]
        true = [each[-1].true_accuracy for each in own if each[-1].true_accuracy is not None]
        table.add_row(
            *name, str(len(own)), str(sum(line.outcome == "passed" for line in ends)),
            f"{statistics.median(made):g} ({min(made)}–{max(made)})", ", ".join(map(str, made)),
            f"{statistics.fmean(true):.1%}" if true else "—",
        )  # fmt: skip
    return table


def _whole(sets: Sequence[Sets]) -> list[Candidates]:
    """Every prompt with all answers of its sets."""
    return [
        Candidates(
            own[0].prompt,
            tuple({response.id: response for each in own for response in each.responses}.values()),
        )
        for own in sets
    ]


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


def _key(line: Trained) -> tuple[str, str, int, str, str]:
    return line.model, line.taste, line.seed, line.order, line.choice


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
    parser.add_argument(
        "--choices", nargs="+", choices=list(CHOICES), help="choose the candidates (default: no choice)"
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        help="answers drawn for each one that is kept; another number needs another --out (default: 4)",
    )
    parser.add_argument(
        "--past-gate", action="store_true", help="go on to the limit after the gate is passed"
    )
    parser.add_argument("--prompts", type=int, default=160, help="how many there are (default: 160)")
    parser.add_argument("--start", type=int, default=20, help="rankings at the first training (default: 20)")
    parser.add_argument("--step", type=int, default=20, help="rankings before the next one (default: 20)")
    parser.add_argument("--limit", type=int, default=160, help="rankings at which to give up (default: 160)")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="default: var/active-learning")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

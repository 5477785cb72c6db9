"""Makes what a reward model learns from: four answers to each prompt, ranked by one simulated annotator.

    candidates.jsonl  rankings.jsonl

Answers of the embedded base model as the project's first stage draws them. The first three quarters of the
prompts are learnt from, the others measure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.annotators import TEAM, Annotator, find_taste, spread
from scripts.benchmark.programs import meter
from scripts.make_base_model import WEIGHTS_DIR
from scripts.prompt_file import read_prompts
from trainers import generate
from trainers.config import GenerationConfig
from trainers.records import Candidates, Prompt, Ranking, read_jsonl, write_jsonl
from trainers.run_dir import RunDir

PROMPTS = Path(__file__).resolve().parents[2] / "demo_prompts.csv"
TASTE = find_taste("concise")


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Write the directory.

    Args:
        options: `out`, `prompts`, `answers` (of each), `response_tokens`.
    """
    out = RunDir(Path(options["out"]) / "run")
    texts = read_prompts(PROMPTS)[: options["prompts"]]
    learnt = len(texts) * 3 // 4
    prompts = [
        Prompt(f"p{index:03}", text, split="train" if index < learnt else "unseen")
        for index, text in enumerate(texts)
    ]
    write_jsonl(out.input("prompts.jsonl"), prompts)
    config = GenerationConfig(
        base_model=str(WEIGHTS_DIR), candidates_per_prompt=options["answers"], threads=1,
        max_response_tokens=options["response_tokens"],
    )  # fmt: skip
    generate.run(config, out)
    candidates = [_renamed(own) for own in read_jsonl(out.output("candidates.jsonl"), Candidates)]
    write_jsonl(Path(options["out"]) / "candidates.jsonl", candidates)
    write_jsonl(Path(options["out"]) / "rankings.jsonl", rankings(candidates))
    return {}


def rankings(candidates: list[Candidates]) -> list[Ranking]:
    """One ranking a prompt, without ties."""
    tasks = [(own.prompt.text, [r.text for r in own.responses]) for own in candidates]
    annotator = Annotator(TEAM[0], TASTE, seed=0, scale=spread(TASTE, tasks, seed=0))
    return [
        Ranking(
            f"r{own.prompt.id}",
            own.prompt.id,
            annotator.person.name,
            tuple((own.responses[place].id,) for place in annotator.rank(prompt, answers).order),
        )
        for own, (prompt, answers) in zip(candidates, tasks, strict=True)
    ]


def _renamed(own: Candidates) -> Candidates:
    """With ids that are the same whenever this runs."""
    return Candidates(
        own.prompt,
        tuple(replace(r, id=f"{own.prompt.id}-{place}") for place, r in enumerate(own.responses)),
    )


if __name__ == "__main__":
    meter.main(measure)

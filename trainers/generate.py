"""Candidates for ranking: 2-4 answers to each prompt, clearly different from one another.

A prompt's answers differ in style instruction, temperature and, in later rounds, in the policy that wrote
them. What quality control rejects is drawn again, in another style and at another temperature; what cannot be
mended is flagged. Every batch is appended to `output/draws.jsonl` before the next begins: killed and started
again, the stage goes on there. Knows nothing of Label Studio; the backend makes ranking tasks of
`output/candidates.jsonl` and chooses the order in which the answers are shown.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainers.config import GenerationConfig
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.errors import DataError, RecordError, RunError
from trainers.model_files import load_config, longest_prompt
from trainers.models import PolicyModel, load_policy
from trainers.quality import Choice, Draw, choose
from trainers.records import Candidates, Language, Prompt, Response, read_jsonl, write_jsonl
from trainers.run_dir import RunDir
from trainers.sampling import response_texts, sample
from trainers.spread import measure_spread
from trainers.text import language

STYLES: dict[str, dict[Language, str]] = {
    "default": {"zh": "", "en": ""},
    "brief": {"zh": "请用简短的口语回答。", "en": "Please answer briefly and casually."},
    "neutral": {"zh": "请用平实的一句话回答。", "en": "Please answer in one plain sentence."},
    "verbose": {"zh": "请用正式、详尽的书面语回答。", "en": "Please answer formally and in detail."},
}
"""Style instructions, in the prompt's language; `default` is the model as it is."""
BASE = "base"
DRAWS = "draws.jsonl"
_MIXES: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("default", "brief"), ("default", "neutral"), ("verbose", "brief")),
    3: (("default", "brief", "neutral"), ("default", "brief", "neutral"), ("default", "brief", "verbose")),
    4: (("default", "brief", "neutral", "verbose"),),
}
"""Styles of a prompt's candidates, by their number; prompts take turns. A bare answer is often verbose."""
_WANT_MORE_HEAT = frozenset({"near_duplicate", "empty"})


@dataclass(frozen=True)
class Job:
    """One answer to draw."""

    prompt_id: str
    place: int
    attempt: int
    policy: str
    style: str
    temperature: float


def run(config: GenerationConfig, run_dir: RunDir) -> dict[str, Any]:
    """Write `output/candidates.jsonl`.

    Returns: prompts, candidates, regenerated, flagged (reason -> number), spread, seconds.
    Raises: DataError: there are no prompts, or one is there twice.
    """
    started = time.monotonic()
    torch.set_num_threads(config.threads or torch.get_num_threads())

    # 1. The prompts.
    prompts = _read_prompts(run_dir.input("prompts.jsonl"))

    # 2. Draw, and draw again what is faulty; what a killed run drew before is kept.
    sampler = PolicySampler(config)
    with Journal(run_dir.output(DRAWS)) as journal, run_dir.metrics() as metrics:
        wanted = len(prompts) * config.candidates_per_prompt
        for attempt in range(config.max_attempts):
            jobs = plan(config, prompts.values(), journal.draws, attempt)
            left = len(jobs)
            for batch in batches(jobs, prompts, config.batch_size):
                if batch[0] not in journal:
                    journal.append(sampler.draw(batch, prompts))
                left -= len(batch)
                metrics.progress(wanted - left, wanted, "candidates")
        draws = journal.draws

    # 3. Keep the best of each and write them.
    candidates = [
        _as_candidates(prompt, choose(prompt, draws[prompt.id], config.max_similarity))
        for prompt in prompts.values()
    ]
    write_jsonl(run_dir.output("candidates.jsonl"), candidates)
    return {
        "prompts": len(candidates),
        "candidates": sum(len(c.responses) for c in candidates),
        "regenerated": sum(draw.attempt > 0 for of_prompt in draws.values() for draw in of_prompt),
        "flagged": dict(Counter(flag for c in candidates for r in c.responses for flag in r.flags)),
        "spread": measure_spread(candidates).to_json(),
        "seconds": round(time.monotonic() - started, 1),
    }


def plan(
    config: GenerationConfig, prompts: Iterable[Prompt], draws: Mapping[str, Sequence[Draw]], attempt: int
) -> list[Job]:
    """What to draw in this attempt: everything at first, then the places without a good draw so far."""
    jobs = []
    for prompt in prompts:
        earlier = [draw for draw in draws.get(prompt.id, ()) if draw.attempt < attempt]
        first = first_jobs(config, prompt)
        if attempt == 0:
            jobs += first
            continue
        kept = choose(prompt, earlier, config.max_similarity)
        jobs += [again(config, first[place], kept, attempt) for place in kept if kept[place].faults]
    return jobs


def first_jobs(config: GenerationConfig, prompt: Prompt) -> list[Job]:
    """One job a place, spread over styles, temperatures and policies by the seed and the prompt's id."""
    rng = random.Random(f"{config.seed}:{prompt.id}")
    count = config.candidates_per_prompt
    styles = list(rng.choice(_MIXES[count]))
    temperatures = rng.sample(config.temperatures, len(config.temperatures))
    *earlier, newest = [BASE, *config.policy_ids]
    policies = [newest, *rng.sample(earlier, len(earlier))]
    rng.shuffle(styles)
    return [
        Job(
            prompt_id=prompt.id,
            place=place,
            attempt=0,
            policy=policies[place % len(policies)],
            style=styles[place],
            temperature=temperatures[place % len(temperatures)],
        )
        for place in range(count)
    ]


def again(config: GenerationConfig, first: Job, kept: Mapping[int, Choice], attempt: int) -> Job:
    """The next attempt at a place: a style that no good answer has yet, a calmer or a hotter draw."""
    good = {choice.draw.style for choice in kept.values() if not choice.faults}
    free = [style for style in STYLES if style not in good] or list(STYLES)
    turn = list(STYLES).index(first.style) + attempt
    policies = [BASE, *config.policy_ids]
    wants_heat = bool(_WANT_MORE_HEAT & set(kept[first.place].faults))
    return replace(
        first,
        attempt=attempt,
        style=free[turn % len(free)],
        temperature=max(config.temperatures) if wants_heat else min(config.temperatures),
        policy=policies[(policies.index(first.policy) + attempt) % len(policies)],
    )


def batches(jobs: Iterable[Job], prompts: Mapping[str, Prompt], batch_size: int) -> list[list[Job]]:
    """Jobs that are drawn together: of one policy, with answers and prompts of like length."""
    groups: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.policy, job.style].append(job)
    result = []
    for key in sorted(groups):
        group = sorted(
            groups[key], key=lambda job: (len(prompts[job.prompt_id].text), job.prompt_id, job.place)
        )
        result += [group[start : start + batch_size] for start in range(0, len(group), batch_size)]
    return result


class PolicySampler:
    """Draws answers; holds one policy in memory at a time."""

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config
        self.directories = {BASE: "", **dict(zip(config.policy_ids, config.policies, strict=True))}
        self.tokenizer = load_tokenizer(config.base_model)
        self.max_prompt_tokens = longest_prompt(
            load_config(config.base_model), config.max_prompt_tokens, config.max_response_tokens
        )
        self._loaded: tuple[str, PolicyModel] | None = None

    def draw(self, jobs: Sequence[Job], prompts: Mapping[str, Prompt]) -> list[Draw]:
        """One answer for each job of one policy; the same answers whatever was drawn before."""
        config = self.config
        encoded = [
            encode_prompts(
                self.tokenizer,
                [prompts[job.prompt_id]],
                STYLES[job.style][language(prompts[job.prompt_id].text)],
                self.max_prompt_tokens,
            )[0]
            for job in jobs
        ]
        rollout = sample(
            self._policy(jobs[0].policy),
            self.tokenizer,
            encoded,
            temperature=[job.temperature for job in jobs],
            max_new_tokens=config.max_response_tokens,
            generator=torch.Generator().manual_seed(_seed_of(config.seed, jobs[0])),
            batch_size=config.batch_size,
        )
        texts = response_texts(self.tokenizer, rollout)
        finished = rollout.finished.tolist()
        return [
            Draw(**vars(job), text=text, finished=end)
            for job, text, end in zip(jobs, texts, finished, strict=True)
        ]

    def _policy(self, policy_id: str) -> PolicyModel:
        if self._loaded is None or self._loaded[0] != policy_id:
            self._loaded = None  # frees the memory before the next is loaded
            self._loaded = (policy_id, load_policy(self.config.base_model, self.directories[policy_id]))
        return self._loaded[1]


class Journal:
    """What was drawn so far, one batch a line; a half-written last line is forgotten."""

    def __init__(self, path: Path) -> None:
        """Raises: RunError: a whole line is no batch of draws."""
        self.draws: dict[str, list[Draw]] = defaultdict(list)
        self._known: set[tuple[str, int, int]] = set()
        self._file = path.open("a+b")
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                self._take([Draw.from_json(draw) for draw in _batch(line)])
            except (ValueError, RecursionError) as error:
                self._file.close()
                raise RunError(
                    f"`{path}` line {number} is damaged; delete the file (or the run directory) to begin anew"
                ) from error
        self._file.truncate(end)

    def __contains__(self, job: Job) -> bool:
        return (job.prompt_id, job.place, job.attempt) in self._known

    def append(self, draws: Sequence[Draw]) -> None:
        line = json.dumps([draw.to_json() for draw in draws], ensure_ascii=False)
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(draws)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _take(self, draws: Iterable[Draw]) -> None:
        for draw in draws:
            self.draws[draw.prompt_id].append(draw)
            self._known.add((draw.prompt_id, draw.place, draw.attempt))


def _batch(line: bytes) -> list[Any]:
    batch = json.loads(line)
    if not isinstance(batch, list):
        raise RecordError("a batch of draws is no list")
    return batch


def _read_prompts(path: Path) -> dict[str, Prompt]:
    prompts = read_jsonl(path, Prompt)
    if not prompts:
        raise DataError("there are no prompts to answer; import some first")
    by_id = {prompt.id: prompt for prompt in prompts}
    if len(by_id) < len(prompts):
        twice = [prompt_id for prompt_id, count in Counter(p.id for p in prompts).items() if count > 1]
        raise DataError(f"{len(twice)} prompts are there twice, first `{twice[0]}`; needed is each id once")
    return by_id


def _seed_of(seed: int, job: Job) -> int:
    return random.Random(f"{seed}:{job.prompt_id}:{job.place}:{job.attempt}").getrandbits(63)


def _as_candidates(prompt: Prompt, choices: Mapping[int, Choice]) -> Candidates:
    return Candidates(prompt, tuple(_as_response(choices[place]) for place in sorted(choices)))


def _as_response(choice: Choice) -> Response:
    draw = choice.draw
    return Response(
        id="a" + secrets.token_hex(4),  # says nothing about where the answer comes from
        prompt_id=draw.prompt_id,
        text=draw.text,
        policy=draw.policy,
        style=draw.style,
        temperature=draw.temperature,
        finished=draw.finished,
        flags=choice.faults,
    )

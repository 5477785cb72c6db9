"""All four stages in a fraction of a second, without learning: real run directories, real manifests.

Takes the place of `python -m trainers` where a test is about the backend. Shorter answers get higher scores.
`SLOW_STAGE` and `SLOW_S` in the environment hold a stage up; `OUTCOME` is what the gate says, `STOP_REASON`
why PPO ends; `FAIL_STAGE` fails. Prompts that say so get flagged answers, or alike ones unless more spread is
asked for. With `REAL_GATE` the reward stage demands and measures what `trainers.reward` does.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from trainers.config import RewardConfig
from trainers.errors import DataError
from trainers.preferences import derive_preferences, require_enough
from trainers.records import Candidates, Comparison, Prompt, Ranking, Response, read_jsonl, write_jsonl
from trainers.run_dir import RunDir
from trainers.spread import measure_spread


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()
    run_dir = RunDir(options.run_dir)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(75)), daemon=True).start()
    with run_dir.lock():
        if run_dir.result_path.is_file():
            return
        config = json.loads(run_dir.config_path.read_text())
        if os.environ.get("FAIL_STAGE") == options.stage:
            run_dir.write_error(DataError("the policy fell over"))
            sys.exit(2)
        try:
            result = STAGES[options.stage](run_dir, config)
        except DataError as error:
            run_dir.write_error(error)
            sys.exit(2)
        hold_up(run_dir, options.stage)
        run_dir.write_result({**result, "seconds": 0.1})


def hold_up(run_dir: RunDir, stage: str) -> None:
    with run_dir.metrics(0) as metrics:
        metrics.progress(1, 2, "candidates")
        if os.environ.get("SLOW_STAGE") == stage:
            time.sleep(float(os.environ["SLOW_S"]))
        metrics.progress(2, 2, "candidates")


def generate(run_dir: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    prompts = read_jsonl(run_dir.input("prompts.jsonl"), Prompt)
    made = [
        Candidates(
            prompt,
            tuple(
                Response(f"a{secrets.token_hex(4)}", prompt.id, f"{prompt.text} {text}", "base", flags=flags)
                for text in texts_for(prompt, config)
                for flags in ((("garbled",) if "flagged" in prompt.text else ()),)
            ),
        )
        for prompt in prompts
    ]
    write_jsonl(run_dir.output("candidates.jsonl"), made)
    return {
        "prompts": len(made), "candidates": 3 * len(made), "regenerated": 0, "flagged": {},
        "spread": measure_spread(made).to_json(),
    }  # fmt: skip


def texts_for(prompt: Prompt, config: dict[str, Any]) -> tuple[str, str, str]:
    if "alike" in prompt.text and config["max_similarity"] > 0.6:
        return ("one and the same answer", "one and the same answer!", "one and the same answer!!")
    return ("short", "a longer answer", "the longest answer of them all")


def reward(run_dir: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    rankings = read_jsonl(run_dir.input("rankings.jsonl"), Ranking)
    candidates = read_jsonl(run_dir.input("candidates.jsonl"), Candidates)
    with run_dir.output("scores.jsonl").open("w") as file:
        for response in (response for c in candidates for response in c.responses):
            score = -float(len(response.text))
            file.write(json.dumps({"response_id": response.id, "score": score}) + "\n")
    if os.environ.get("REAL_GATE"):
        found = real_gate(config, candidates, rankings)
        save_model(run_dir)
        return found
    save_model(run_dir)
    outcome = os.environ.get("OUTCOME", "passed")
    return {
        "accuracy": 0.92, "interval": [0.85, 0.96], "pairs": 40, "outcome": outcome, "agreement": 0.8,
        "rankings_needed": 0 if outcome == "passed" else 30, "rankings": len(rankings),
    }  # fmt: skip


def real_gate(
    config: dict[str, Any], candidates: list[Candidates], rankings: list[Ranking]
) -> dict[str, Any]:
    from trainers.reward_gate import judge  # takes scipy, which no other stage waits for

    preferences = derive_preferences(rankings, candidates)
    counts = require_enough(rankings, preferences, {c.prompt.id: c.prompt.split for c in candidates})
    scores = {r.id: -float(len(r.text)) for c in candidates for r in c.responses}
    return judge(RewardConfig.from_json(config), counts, candidates, rankings, preferences, scores)


def ppo(run_dir: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    assert Path(config["reward_model"], "manifest.json").is_file()
    save_model(run_dir)
    return {
        "updates": 8, "stop_reason": os.environ.get("STOP_REASON", "converged"), "stop_measured": 3,
        "stop_limit": 3, "best_update": 8, "reward_before": -1.0, "reward_after": 2.0, "kl": 3.0,
        "resumed": 0, "length_before": 20.0, "learning_rate": config["learning_rate"] or 0.001,
    }  # fmt: skip


def compare(run_dir: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    prompts = read_jsonl(run_dir.input("prompts.jsonl"), Prompt)
    made = [
        Comparison(
            f"x{number}", prompt, prompt.split == "train",
            Response(f"b{number}", prompt.id, f"BEFORE {prompt.text}", config["before_id"]),
            Response(f"f{number}", prompt.id, f"AFTER {prompt.text}", config["after_id"]),
        )
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip
    write_jsonl(run_dir.output("comparisons.jsonl"), made)
    return {"comparisons": len(made), "length_before": 30.0, "length_after": 20.0, "garbled_after": 0.0}


def save_model(run_dir: RunDir) -> None:
    def write(directory: Path) -> None:
        (directory / "model.safetensors").write_text(run_dir.path.name)

    run_dir.save_model(write, {"run": run_dir.path.name})


STAGES = {"generate": generate, "reward": reward, "ppo": ppo, "compare": compare}

if __name__ == "__main__":
    main()

"""A trainer that keeps the run directory's contract and learns nothing; `input/script.json` is its script.

    {"steps": 5, "pause_s": 0.1, "fail": ["kill", "bug", "user"], "ignore_term": false, "model": true}

`fail` is taken from the front, one at each start, after half of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

from trainers.errors import DataError
from trainers.run_dir import RunDir


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()
    run_dir = RunDir(options.run_dir)
    if run_dir.result_path.is_file():
        return
    script = json.loads(run_dir.input("script.json").read_text())
    if script.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(75)), daemon=True).start()
    with run_dir.lock():
        if run_dir.result_path.is_file():
            return
        work(run_dir, script)


def work(run_dir: RunDir, script: dict[str, object]) -> None:
    starts_path = run_dir.path / "starts"
    starts = int(starts_path.read_text()) if starts_path.exists() else 0
    starts_path.write_text(str(starts + 1))
    faults = list(script.get("fail", []))  # type: ignore[call-overload]
    fault = faults[starts] if starts < len(faults) else None
    steps = int(script.get("steps", 4))  # type: ignore[call-overload]
    with run_dir.metrics(0) as metrics:  # it keeps no checkpoint: every start begins anew
        for step in range(steps):
            metrics.progress(step, steps, "candidates", step=step)
            metrics.log(step, **{"objective/score": step + starts * 100.0})
            metrics.sample(step, prompt_id="p1", prompt="hi", response=f"answer {step}", score=1.0)
            if fault and step >= steps // 2:
                break_down(run_dir, str(fault))
            time.sleep(float(script.get("pause_s", 0)))  # type: ignore[arg-type]
        metrics.progress(steps, steps, "candidates", step=steps)
    if script.get("model"):
        run_dir.save_model(lambda d: (d / "model.safetensors").write_text("w") and None, {})
    run_dir.write_result({"steps": steps, "secret": os.environ.get("BACKEND_PASSWORD", "")})


def break_down(run_dir: RunDir, fault: str) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "user":
        run_dir.write_error(DataError("all rankings tie; rank some answers apart"))
        os._exit(2)
    os._exit(1)


if __name__ == "__main__":
    main()

"""Breaks PPO on purpose, one way after another, and checks that a test notices each.

    python -m tests.trainers.mutants            every fault; some minutes
    python -m tests.trainers.mutants whiten     those whose name holds this word

Each fault is put into a copy of the sources, in which its tests run. They must fail there; a fault that no
test notices is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("trainers", "tests", "scripts", "backend", "label_config", "pyproject.toml")


class Mutant(NamedTuple):
    """A fault: what a correct PPO holds and this breaks, where, and which tests must notice."""

    name: str
    file: str
    correct: str
    broken: str
    tests: str
    """Files under tests/trainers, and words that select tests in them."""


MUTANTS = (
    Mutant("ratio of the first mini-batch", "token_logprobs",
           "logits if temperature == 1 else logits / temperature", "logits",
           "test_ppo test_rollout -k ratio_one or each_response_alone"),
    Mutant("KL before the first update", "trainable_policy",
           "stack.enter_context(adapters.disable_adapter())", "pass",
           "test_ppo -k kl_is_zero"),
    Mutant("temperature of the reference", "ppo_run",
           "evaluate(model, part, self.config.temperature,", "evaluate(model, part, 1.0,",
           "test_ppo -k temperature"),
    Mutant("padding while decoding", "decoder",
           "padding = torch.arange(width) >= lengths[:, None]",
           "padding = torch.arange(width) > lengths[:, None]",
           "test_sampling -k hidden_states or training_forward"),
    Mutant("score in a padded batch", "models",
           "== last[:, None]", "== last[:, None].clamp(max=1)",
           "test_models -k librarys"),
    Mutant("last state of a padded row", "models",
           "hidden[torch.arange(len(rows), device=device), last.to(device)]", "hidden[:, -1]",
           "test_models -k librarys"),
    Mutant("GAE's recursion", "advantages",
           "delta + gamma * gae_lambda * advantage", "delta + gae_lambda * advantage",
           "test_advantages -k gae"),
    Mutant("what passes the end", "advantages",
           "    values = torch.where(response_mask, values, 0.0)\n", "",
           "test_advantages -k passes_the_end"),
    Mutant("masked mean", "advantages",
           "/ mask.sum().clamp(min=1)", "/ mask.numel()",
           "test_advantages -k masked_mean or whitening"),
    Mutant("whitening of one token", "advantages",
           "torch.rsqrt(variance + 1e-8)", "torch.rsqrt(variance)",
           "test_advantages -k one_token"),
    Mutant("whitening over the batch", "ppo",
           "whiten(advantages, mask)", "advantages",
           "test_ppo -k whitened"),
    Mutant("place of the score", "advantages",
           "last = response_mask.sum(dim=1) - 1", "last = torch.full_like(response_mask.sum(dim=1), -1)",
           "test_advantages -k last_real_token"),
    Mutant("penalty of a truncated response", "ppo",
           "(~rollout.finished).float()", "rollout.finished.float()",
           "test_ppo -k missing_eos"),
    Mutant("content of the padding", "rollout",
           "[row[:length] for row, length in", "[row for row, length in",
           "test_ppo -k pad_content"),
    Mutant("k3", "losses",
           "torch.expm1(log_ratio) - log_ratio", "log_ratio.exp() - log_ratio",
           "test_losses -k kl or k3"),
    Mutant("adaptive coefficient", "advantages",
           "min(max(kl / target - 1.0, -0.2), 0.2)", "kl / target - 1.0",
           "test_advantages -k adaptive"),
    Mutant("side of the clip", "losses",
           "-torch.minimum(ratio * advantages, clipped * advantages)", "-clipped * advantages",
           "test_losses -k policy_gradient or clips"),
    Mutant("size of the micro-batches", "ppo",
           "(loss / tokens).backward()", "(loss / len(losses)).backward()",
           "test_ppo -k micro_batches"),
    Mutant("number of processes", "distributed",
           "flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))",
           "flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.size",
           "test_distributed -k gradient"),
    Mutant("weights of the base", "fused_layers",
           "out = torch.cat(weights)\n", "out = weights[0] if len(weights) == 1 else torch.cat(weights)\n",
           "test_ppo -k unchanged"),
    Mutant("layers after a step", "models",
           "        finally:\n            self._layers = None\n", "        finally:\n            pass\n",
           "test_ppo -k anew"),
    Mutant("gradient of places", "layer_functions",
           "_turn(grads[0], ctx.turns.conj())", "_turn(grads[0], ctx.turns)",
           "test_packed_trunk -k librarys"),
    Mutant("gradient of what adapters add", "llama_layers",
           "grad_x = grad_inner @ layers.down", "grad_x = torch.zeros_like(x)",
           "test_packed_trunk -k librarys"),
    Mutant("gradient of a norm", "layer_functions",
           "addcmul_(along_x, x, value=-1)", "addcmul_(along_x, x)",
           "test_packed_trunk -k librarys"),
    Mutant("gradient along with a logprob", "token_logprobs",
           "sum(grad[:, None] * own for", "sum(own for",
           "test_token_logprobs -k gradients"),
    Mutant("KL of a look", "verification",
           "if looks[-1].kl > config.kl_stop:", "if looks[-1].kl > 2 * config.kl_stop:",
           "test_verification -k reason_and_number"),
    Mutant("gradient of the gate", "layer_functions",
           "silu_backward(grads[0] * up, gate)", "silu_backward(grads[0], gate)",
           "test_packed_trunk -k librarys"),
    Mutant("gradient at the padding", "packed_trunk",
           "grads[0].new_zeros(ctx.shape)", "grads[0].new_ones(ctx.shape)",
           "test_packed_trunk -k librarys"),
    Mutant("gradient of a shared beginning", "packed_trunk",
           "if len(padding.repeats):", "if False:",
           "test_packed_trunk -k librarys"),
    Mutant("token of another beginning", "passes",
           "min(len(one), len(other)))", "min(len(one), len(other))) + 1",
           "test_packed_trunk -k once"),
    Mutant("states kept of dropped rows", "decoder",
           "            self.lower.keep(rows)\n", "            pass\n",
           "test_split_trunk -k kept_from_sampling"),
    Mutant("adapter of the reward model", "trainable_policy",
           "adapters.set_adapter(adapter)\n", "pass\n",
           "test_reward_source -k policys_base"),
    Mutant("state of the optimizer", "ppo_state",
           "    optimizer.load_state_dict(optimizer_state)\n", "",
           "test_ppo -k bit_for_bit"),
    Mutant("random numbers of an update", "ppo_state",
           'f"{seed}/{update}/{purpose}"', 'f"{seed}/{purpose}"',
           "test_ppo -k random_numbers"),
    Mutant("direction of learning", "ppo",
           "whiten(advantages, mask), returns", "-whiten(advantages, mask), returns",
           "test_ppo -k programmatic_reward"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="")
    wanted = parser.parse_args().word
    unnoticed = []
    with tempfile.TemporaryDirectory() as directory:
        for mutant in [mutant for mutant in MUTANTS if wanted in mutant.name]:
            noticed = is_noticed(mutant, Path(directory))
            print(f"{'noticed' if noticed else 'NOT NOTICED':12} {mutant.name}", flush=True)  # noqa: T201
            if not noticed:
                unnoticed.append(mutant.name)
    return 1 if unnoticed else 0


def is_noticed(mutant: Mutant, directory: Path) -> bool:
    """Whether a test fails with the fault. Raises: ValueError: the sources have no such place any more."""
    for name in COPIED:
        source, copy = ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    path = directory / "trainers" / f"{mutant.file}.py"
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.correct) != 1:
        raise ValueError(
            f"`{mutant.correct}` is {text.count(mutant.correct)} times in {mutant.file}.py, not once"
        )
    path.write_text(text.replace(mutant.correct, mutant.broken), encoding="utf-8")
    names, _, words = mutant.tests.partition(" -k ")
    tests = [f"tests/trainers/{name}.py" for name in names.split()]
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *tests,
        "-k",
        words,
    ]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise ValueError(
            f"the tests of `{mutant.name}` did not run: {done.stdout[-500:]}{done.stderr[-500:]}"
        )
    return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())

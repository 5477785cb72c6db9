"""Why a run failed, for readers of Chinese."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from backend.errors import LabelStudioError, RegistryError
from backend.failures import Failure, FailureKind, kind_of, round_words, words
from trainers import manifest, model_files
from trainers.errors import ShapeError, TrainerError
from trainers.preferences import require_enough


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_every_kind_says_in_chinese_what_to_do_and_keeps_the_detail(kind: FailureKind) -> None:
    zh, en = words(kind, "`x` is 3; needed is 4")
    assert ("请" in zh or "重试" in zh) and zh.endswith("（详情：`x` is 3; needed is 4）")
    assert en == "`x` is 3; needed is 4"


@pytest.mark.parametrize(
    "error", sorted({*subclasses(TrainerError), *subclasses(LabelStudioError), RegistryError}, key=repr)
)
def test_every_error_that_people_can_act_on_has_a_kind_of_its_own(error: type[Exception]) -> None:
    assert (kind_of(error.__name__) == "bug") == (error is ShapeError)


def no_model() -> None:
    model_files.local_directory("/nowhere/at-all")


def full_disk() -> None:
    raise manifest._as_run_error(OSError(errno.ENOSPC, "full"), Path("model"))


def no_rankings() -> None:
    require_enough([], [], {})


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (no_model, "model_missing", "BASE_MODEL"),
        (full_disk, "disk", "磁盘已满"),
        (no_rankings, "data", "再做一些排序"),
    ],
)
def test_what_the_trainers_raise_is_told_apart(fault: Callable[[], None], kind: str, told: str) -> None:
    with pytest.raises(TrainerError) as caught:
        fault()
    failure = Failure.of(caught.value)
    assert failure.kind == kind and told in words(failure.kind, failure.detail)[0]


def test_run_from_before_there_were_kinds_is_a_bug_with_its_detail() -> None:
    assert words(None, "it broke") == (words("bug", "it broke")[0], "it broke")
    assert words(None, "") == ("", "")


def test_round_says_why_it_stopped() -> None:
    assert round_words("failed", "disk", "no space")[0].startswith("磁盘已满")
    assert round_words("gated", None, "not_enough_evidence")[0] == "奖励模型的证据不足"
    assert round_words("decided", None, "") == ("", "")

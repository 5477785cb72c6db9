"""Why a run or a round failed, in words for people. Pure.

What failed says so itself in English, with what was found and what to do; this says of which kind it is, and
for each kind in Chinese what happened and what to do. Kinds go by the names of the errors, which is what a
trainer leaves behind (`error.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal[
    "data",  # too little to learn from or to answer
    "input",  # a file of the run cannot be read
    "settings",  # out of range, or they do not fit each other
    "model_missing",  # no such directory or name
    "model",  # it cannot be used
    "memory",  # it did not or does not fit
    "disk",  # full
    "scorer",  # a reward program gives no scores
    "run",  # the run's directory is in use or damaged
    "stopped",  # from outside
    "restarts",  # the server ended too often while it ran
    "label_studio",  # does not do what was asked
    "publication",  # what a run made cannot be taken over
    "cancelled",  # someone ended the round's run
    "bug",  # none of these
]

_WORDS: Mapping[FailureKind, str] = {
    "data": "可用的数据不足：请导入题目或再做一些排序，然后重试",
    "input": "运行的输入文件无法读取：请重试；如仍失败，请把详情告诉维护者",
    "settings": "设置有误：请按详情改正设置，然后重试",
    "model_missing": "找不到模型：请检查 BASE_MODEL（目录或模型名称），或先下载模型，然后重试",
    "model": "模型无法使用：请换一个模型，或重新准备它的文件，然后重试",
    "memory": "内存不足：请换更小的模型、释放内存，或换一台内存更大的机器，然后重试",
    "disk": "磁盘已满：请清理磁盘空间，然后重试",
    "scorer": "外部打分程序没有给出可用的分数：请启动或修好它，然后重试",
    "run": "运行目录正被占用、已损坏或属于另一份配置：请按详情处理，然后重试",
    "stopped": "训练被外部停止：重试即从中断处继续",
    "restarts": "运行期间服务器多次退出：请查看日志，排除原因后重试",
    "label_studio": "Label Studio 没有完成请求：请检查它是否运行、地址和密钥是否正确，然后重试",
    "publication": "运行的结果无法使用：请按详情处理，然后重试",
    "cancelled": "运行已被取消：可以重试",
    "bug": "程序出错：请查看日志并重试；如仍失败，请把详情告诉维护者",
}
_KINDS: Mapping[str, FailureKind] = {
    "DataError": "data",
    "RecordError": "input",
    "ConfigError": "settings",
    "SettingsError": "settings",
    "ModelMissingError": "model_missing",
    "ModelError": "model",
    "MemoryLimitError": "memory",
    "MemoryError": "memory",
    "OutOfMemoryError": "memory",  # torch's
    "DiskFullError": "disk",
    "ScorerError": "scorer",
    "RunError": "run",
    "UnreachableError": "label_studio",
    "UnauthorisedError": "label_studio",
    "WrongVersionError": "label_studio",
    "NotFoundError": "label_studio",
    "RejectedError": "label_studio",
    "LabelStudioError": "label_studio",
    "LabelConfigError": "label_studio",
    "RegistryError": "publication",
}
_GATED: Mapping[str, tuple[str, str]] = {
    "not_enough_evidence": ("奖励模型的证据不足", "not enough evidence for the reward model"),
    "failed": ("奖励模型未通过检验", "the reward model did not pass its gate"),
}


@dataclass(frozen=True)
class Failure:
    """Of which kind, and what was said."""

    kind: FailureKind
    detail: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(kind_of(type(error).__name__), str(error))


def kind_of(error_name: str) -> FailureKind:
    """The kind of an error by the name of its class."""
    return _KINDS.get(error_name, "bug")


def words(kind: FailureKind | None, detail: str) -> tuple[str, str]:
    """Why something failed, in Chinese and English; nothing where nothing was said."""
    if not detail:
        return "", ""
    return f"{_WORDS[kind or 'bug']}（详情：{detail}）", detail


def round_words(state: str, kind: FailureKind | None, reason: str) -> tuple[str, str]:
    """Why a round stopped where it is, in both languages; nothing if it did not."""
    return _GATED.get(reason, (reason, reason)) if state == "gated" else words(kind, reason)

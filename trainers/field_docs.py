"""The line of documentation below each field of a dataclass, read from its source.

Standard library only. `python -m trainers STAGE --help` prints it; tests hold settings tables to it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldDoc:
    """One field as a reader sees it."""

    name: str
    type: str
    default: str | None
    """The default's `repr`; `None` if the field is required."""
    doc: str


def field_docs(kind: type[Any]) -> list[FieldDoc]:
    """Every field of a dataclass, inherited ones first; `doc` is empty where the source has none.

    Raises: TypeError: `kind` is no dataclass.
    """
    docs: dict[str, str] = {}
    types: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            _read(base, docs, types)
    return [
        FieldDoc(field.name, types[field.name], _default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]


def _read(kind: type[Any], docs: dict[str, str], types: dict[str, str]) -> None:
    """Add the fields that this class itself declares."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class is a class
    below = [*definition.body[1:], None]
    for statement, following in zip(definition.body, below, strict=True):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        types[statement.target.id] = ast.unparse(statement.annotation)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = inspect.cleandoc(str(following.value.value))


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return None

"""Names of the people who annotate, as Label Studio has them; other rows know them by their numbers only.

`backend.reconcile` keeps them; whatever shows a person to a person asks here. A name is untrusted text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from backend.tables import JudgementRow, PersonRow, RankingRow


def names(session: Session) -> dict[int, str]:
    """number → name of everybody whom Label Studio told of."""
    return {row.id: row.name for row in session.scalars(select(PersonRow))}


def shown(annotator: int | str, known: Mapping[int, str]) -> str:
    """`Lin Wang (#4)`, or `#4` where there is no name; of `4` as a number or in digits."""
    number = str(annotator)
    name = known.get(int(number), "") if number.isdecimal() else ""
    return f"{name} (#{number})" if name else f"#{number}"


def unknown(session: Session) -> set[int]:
    """Those who annotated and of whom Label Studio was not asked yet."""
    seen = union(select(RankingRow.annotator), select(JudgementRow.reviewer)).subquery()
    query = select(seen).where(seen.c[0] != 0, seen.c[0].not_in(select(PersonRow.id)))
    return set(session.scalars(query))


def keep_names(session: Session, users: Iterable[Mapping[str, Any]]) -> None:
    """Take in Label Studio's users; whoever is not among them has no name."""
    known = {int(user["id"]): _name(user) for user in users}
    for number in known.keys() | unknown(session):
        session.merge(PersonRow(id=number, name=known.get(number, "")))


def _name(user: Mapping[str, Any]) -> str:
    full = " ".join(str(user.get(part) or "").strip() for part in ("first_name", "last_name")).strip()
    return full or str(user.get("email") or user.get("username") or "").strip()

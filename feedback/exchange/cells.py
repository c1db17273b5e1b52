"""Cells of CSV: all are text, and programs that open them take some for formulas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext as _

from feedback.lines import BadRow, json_value

TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion")
"""Where an empty cell is a text; anywhere else nothing stands there."""
FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")
"""A cell that begins like this is, or was before somebody escaped it, the beginning of a formula."""


def guarded(cell: str) -> str:
    """A cell that no spreadsheet calculates; `unguarded` gives the text back."""
    return "'" + cell if FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise BadRow(_("wanted a number, found %s") % repr(cell)[:80]) from error
    if not math.isfinite(value) or "_" in cell:  # Python reads 1_0 as ten
        raise BadRow(_("wanted a number, found %s") % repr(cell)[:80])
    return value


def truth(cell: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if cell.strip().lower() not in values:
        raise BadRow(_("wanted true or false, found %s") % repr(cell)[:80])
    return values[cell.strip().lower()]


KINDS: dict[str, Callable[[str], Any]] = {
    "margin": number,
    "label": truth,
    **dict.fromkeys(
        ("messages", "completions", "preferences", "ranking", "ratings", "corrections"), json_value
    ),
}


def typed(cells: dict[str, str]) -> dict[str, Any]:
    """The cells of a record as values: numbers, truths and JSON where a column of that name holds them."""
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        elsewhere = name == "prompt" and cells.get("messages")
        if not cell and (name not in TEXT_COLUMNS or elsewhere):
            continue
        try:
            values[name] = KINDS[name](cell) if name in KINDS else cell
        except BadRow as bad:
            bad.reason = _("column '%(name)s': %(reason)s") % {"name": name, "reason": bad.reason}
            raise
    return values


def flat(value: object) -> str:
    """A value as a cell."""
    if value is None:
        return ""
    return guarded(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

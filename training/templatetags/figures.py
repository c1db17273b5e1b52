"""Numbers and texts as pages show them. A missing number is a dash, never a zero."""

from __future__ import annotations

import math
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from feedback.visible import pieces
from training import names
from training.review import who_judged

register = template.Library()
register.filter("who_judged", who_judged)
register.filter("phase", names.of_phase)
register.filter("metric", names.of_metric)
MISSING = "–"
MINUS = "\u2212"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@register.filter
def figure(value: Any) -> str:
    """Three significant figures, with a real minus sign: 0.0123, 1.53, 12,300, 1.2e-05."""
    if not is_number(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 0.001:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.2g}"
    return text.replace("-", MINUS)


@register.filter
def fixed(value: Any, places: int = 2) -> str:
    """So many decimals, so that a column lines up: 0.31, −0.42."""
    return f"{value:.{places}f}".replace("-", MINUS) if is_number(value) else MISSING


@register.filter
def signed(value: Any) -> str:
    """Like `figure`, with a plus before a gain."""
    text = figure(value)
    return f"+{text}" if is_number(value) and value > 0 else text


@register.filter
def percent(value: Any) -> str:
    """0.713 is "71 %"."""
    return f"{100 * value:.0f} %" if is_number(value) else MISSING


@register.filter
def percent_number(value: Any) -> str:
    """0.713 is "71", for the ends of an interval."""
    return f"{100 * value:.0f}" if is_number(value) else MISSING


@register.filter
def duration(seconds: Any) -> str:
    """The two largest units: "3 min 10 s", "2 h 14 min", "4 d 3 h"."""
    if not is_number(seconds):
        return MISSING
    whole = max(0, round(seconds))
    if whole < 60:
        return _("%(s)d s") % {"s": whole}
    if whole < 3600:
        return _("%(m)d min %(s)d s") % {"m": whole // 60, "s": whole % 60}
    if whole < 24 * 3600:
        return _("%(h)d h %(m)d min") % {"h": whole // 3600, "m": whole % 3600 // 60}
    return _("%(d)d d %(h)d h") % {"d": whole // 86400, "h": whole % 86400 // 3600}


@register.filter
def short_hash(value: str) -> str:
    return f"{value[:10]}…" if value else MISSING


@register.filter
def spaced(name: str) -> str:
    """The name of an input or count in words: "reward_model" is "reward model"."""
    return name.replace("_", " ")


@register.filter
def shown(value: Any) -> str:
    """A setting's or filter's value for reading: lists joined, truth in words, nothing as a dash."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


@register.filter
def words(text: str) -> str:
    count = len(text.split())
    return ngettext("%(count)d word", "%(count)d words", count) % {"count": count}


@register.filter
def visible(text: str) -> SafeString:
    """Escaped text in which characters that hide or reorder others show as their names."""
    return format_html_join("", "{}", ((_piece(piece.text, piece.hidden),) for piece in pieces(text)))


def _piece(text: str, hidden: bool) -> str | SafeString:
    return format_html('<span class="hidden-char">{}</span>', text) if hidden else text


@register.filter
def speaker(role: str) -> str:
    return {"user": _("User"), "assistant": _("Assistant"), "system": _("System")}.get(role, role)

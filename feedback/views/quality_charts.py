"""Small drawings beside numbers: a dot with its interval on a line, as coordinates for an inline SVG."""

from __future__ import annotations

from typing import NamedTuple

from django.utils.translation import gettext as _

from feedback.agreement import Estimate, Quartiles, Share

WIDTH, EDGE = 200.0, 6.0
MISSING, MINUS = "–", "\u2212"
SHADES = ((0.8, 5), (0.6, 4), (0.4, 3), (0.2, 2), (0.0, 1))


class Bar(NamedTuple):
    """Places on a line of WIDTH: the dot, the ends of its interval, a mark to compare with."""

    dot: float
    low: float | None
    high: float | None
    mark: float | None
    words: str
    """The same for those who hear the page."""

    @classmethod
    def of(cls, estimate: Estimate, *, lowest: float, mark: float | None) -> Bar | None:
        """On a line from `lowest` to 1; None without a figure."""
        if estimate.value is None:
            return None
        words = number(estimate.value)
        if estimate.low is not None and estimate.high is not None:
            facts = {"value": words, "low": number(estimate.low), "high": number(estimate.high)}
            words = _("%(value)s, between %(low)s and %(high)s") % facts
        ends = (estimate.low, estimate.high)
        low, high = (None if end is None else _place(end, lowest, 1) for end in ends)
        compared = None if mark is None else _place(mark, lowest, 1)
        return cls(_place(estimate.value, lowest, 1), low, high, compared, words)


def _place(value: float, lowest: float, highest: float) -> float:
    share = (value - lowest) / (highest - lowest) if highest > lowest else 0.0
    return round(EDGE + (WIDTH - 2 * EDGE) * min(1.0, max(0.0, share)), 1)


def share_bar(share: Share) -> Bar | None:
    """From none to all, with a mark at half."""
    return Bar.of(Estimate(share.value, share.low, share.high), lowest=0, mark=0.5)


def seconds_bar(seconds: Quartiles, longest: float) -> Bar:
    """The middle half as a line, the median as its dot."""
    low, dot, high = (_place(value, 0, longest) for value in seconds)
    facts = {"median": round(seconds.median), "low": round(seconds.low), "high": round(seconds.high)}
    words = _("median %(median)d s, the middle half between %(low)d and %(high)d s") % facts
    return Bar(dot, low, high, None, words)


def share_words(share: Share) -> str:
    """ "53 % (49 to 57)"."""
    if share.value is None or share.low is None or share.high is None:
        return MISSING
    whole = (round(100 * value) for value in (share.value, share.low, share.high))
    return _("%d %% (%d to %d)") % tuple(whole)


def number(value: float | None) -> str:
    """Two decimals with a real minus sign; a missing one is a dash, never a zero."""
    if value is None:
        return MISSING
    text = f"{value:.2f}"
    return text.replace("-0.00", "0.00").replace("-", MINUS)


def shade(kappa: float | None) -> int:
    """0 for less than chance or nothing, then a step for each fifth: the table reads as a map."""
    if kappa is None:
        return 0
    return next((step for least, step in SHADES if kappa >= least), 0)

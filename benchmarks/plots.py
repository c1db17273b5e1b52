"""Lines with bands as an SVG picture that is legible in a light and in a dark page: points in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 42
COLOURS = ("#3565c9", "#c2571b", "#2b8a57", "#8a55b5", "#a33c5e", "#6b7280")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.paper { fill: #ffffff } .grid { stroke: #d8dee4 } .small { font-size: 11px; fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #15191f } .grid { stroke: #30363d } .small { fill: #9aa4af }
}
"""


class Line(NamedTuple):
    name: str
    dashed: bool
    points: list[tuple[float, float, float, float]]  # x, y, and the ends of y's interval


class Panel(NamedTuple):
    title: str
    lines: list[Line]


class Axis(NamedTuple):
    low: float
    high: float

    def ticks(self) -> list[float]:
        """Four to eight round numbers."""
        raw = (self.high - self.low) / 5
        power = 10.0 ** floor(log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
        return [step * n for n in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]

    def place(self, value: float, start: float, end: float) -> float:
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis(values: Sequence[float]) -> Axis:
    low, high = min(0.0, *values), max(0.0, *values)
    return Axis(low, high + 0.04 * (high - low or 1.0))


def svg(panels: Sequence[Panel], *, across: str, up: str, notes: str) -> str:
    """Panels side by side on the same axes, one colour for each name, the legend and `notes` below."""
    points = [point for panel in panels for line in panel.lines for point in line.points]
    x, y = axis([p[0] for p in points]), axis([end for p in points for end in p[1:]])
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colours = dict(zip(names, COLOURS, strict=False))
    width, height = WIDTH * len(panels), HEIGHT + 48
    body = [f'<rect class="paper" width="{width}" height="{height}"/>']
    for number, panel in enumerate(panels):
        body += [
            f'<g transform="translate({WIDTH * number} 0)">',
            *drawn(panel, x, y, colours, across, up),
            "</g>",
        ]
    for number, name in enumerate(names):
        left = LEFT + 120 * number
        body.append(line_of([(left, HEIGHT + 12), (left + 24, HEIGHT + 12)], colours[name], dashed=False))
        body.append(f'<text x="{left + 30}" y="{HEIGHT + 16}">{escape(name)}</text>')
    body.append(f'<text class="small" x="{LEFT}" y="{HEIGHT + 38}">{escape(notes)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def drawn(panel: Panel, x: Axis, y: Axis, colours: dict[str, str], across: str, up: str) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield f'<text x="{LEFT}" y="18">{escape(panel.title)}</text>'
    for tick in y.ticks():
        level = y.place(tick, bottom, TOP)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>'
        yield f'<text class="small" x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in x.ticks():
        place = x.place(tick, LEFT, right)
        yield f'<text class="small" x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    centre, middle = (LEFT + right) / 2, (TOP + bottom) / 2
    turned = f'transform="translate(14 {middle}) rotate(-90)"'
    yield f'<text class="small" x="{centre}" y="{bottom + 34}" text-anchor="middle">{escape(across)}</text>'
    yield f'<text class="small" {turned} text-anchor="middle">{escape(up)}</text>'
    for line in panel.lines:
        at = [
            (x.place(p[0], LEFT, right), *(y.place(value, bottom, TOP) for value in p[1:]))
            for p in line.points
        ]
        if not at:
            continue
        band = [(p[0], p[2]) for p in at] + [(p[0], p[3]) for p in reversed(at)]
        ends = " ".join(f"{a:.1f},{b:.1f}" for a, b in band)
        yield f'<polygon points="{ends}" fill="{colours[line.name]}" fill-opacity="0.13"/>'
        yield line_of([(p[0], p[1]) for p in at], colours[line.name], dashed=line.dashed)


def line_of(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> str:
    places = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>'

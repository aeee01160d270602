"""Line charts as inline SVG, for a page that loads nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

_W, _H = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 30, 54
# Okabe & Ito's colours, told apart by colour-blind readers too
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MARKS = ("", "6 3", "2 3", "8 3 2 3")


def line_chart(title: str, x_name: str, x: Sequence[float], series: Mapping[str, Sequence[float]]) -> str:
    """An SVG of every series over x, the axis from 0 to a round number above the largest value."""
    top = _round_up(max((value for values in series.values() for value in values), default=1.0))
    low, high = min(x), max(x)

    def place(a: float, b: float) -> tuple[float, float]:
        across = (a - low) / (high - low) if high > low else 0.5
        return _LEFT + across * (_W - _LEFT - _RIGHT), _H - _BOTTOM - b / top * (_H - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = place(low, share * top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top:.3g}</text>')
    for value in x:
        across, y = place(value, 0.0)
        parts.append(f'<text x="{across:.1f}" y="{y + 15:.1f}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{_W - _RIGHT}" y="{_H - _BOTTOM + 28}" text-anchor="end">{escape(x_name)}</text>')
    for i, (name, values) in enumerate(series.items()):
        colour, mark = _COLOURS[i % len(_COLOURS)], _MARKS[i % len(_MARKS)]
        points = [place(a, b) for a, b in zip(x, values)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        style = f'stroke="{colour}" stroke-dasharray="{mark}"'
        parts.append(f'<polyline fill="none" stroke-width="2" {style} points="{path}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        if len(series) > 1:
            left, y = _LEFT + i * (_W - _LEFT) / len(series), _H - 12
            parts.append(f'<line x1="{left:.0f}" x2="{left + 20:.0f}" y1="{y}" y2="{y}" stroke-width="2" {style}/>')
            parts.append(f'<text x="{left + 25:.0f}" y="{_H - 8}">{escape(name)}</text>')
    return f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten, whose quarters read well."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power > value:
        power /= 10.0
    while power * 10.0 <= value:
        power *= 10.0
    return next(step * power for step in (1.0, 2.0, 4.0, 8.0, 10.0) if step * power >= value - 1e-12)

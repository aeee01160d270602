"""Stacked bars as a picture: what a plan's memory and time are made of.

draw([Panel("memory a chip", "GiB", {"decoder": {"params": 0.8, "temporaries": 1.9}}, limit=15.75)], "plan.png")
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Okabe & Ito's colours, told apart by colour-blind readers too, and two more
_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7", "#999999", "#000000",
            "#6b3e1e")  # fmt: skip
_WIDTH, _NAMES, _NUMBERS, _BAR, _GAP, _EDGE, _FONT = 900, 230, 90, 16, 8, 14, 13
_INK, _PAPER, _PALE = "#202020", "#ffffff", "#eeeeee"


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale."""

    title: str
    unit: str
    bars: dict[str, dict[str, float]]
    """Name of a bar -> the values that it stacks, by part."""
    limit: float | None = None
    """What a bar may reach, drawn as its background; the longest bar's length unless given."""


def draw(panels: list[Panel], path: str | Path) -> None:
    """Write the panels, one over the other, as a PNG (or what the path's ending says)."""
    font = ImageFont.load_default(_FONT)
    height = _EDGE + sum((len(panel.bars) + 2) * (_BAR + _GAP) + 2 * _EDGE for panel in panels)
    canvas = Image.new("RGB", (_WIDTH, height), _PAPER)
    pen, y = ImageDraw.Draw(canvas), _EDGE
    for panel in panels:
        parts = list(dict.fromkeys(part for bar in panel.bars.values() for part in bar))
        colours = {part: _COLOURS[i % len(_COLOURS)] for i, part in enumerate(parts)}
        longest = max((sum(bar.values()) for bar in panel.bars.values()), default=0.0)
        scale = (_WIDTH - _NAMES - _NUMBERS - _EDGE) / (max(longest, panel.limit or 0.0) or 1.0)
        limit = f", of {panel.limit:.2f}" if panel.limit else ""
        pen.text((_EDGE, y), f"{panel.title}, {panel.unit}{limit}", fill=_INK, font=font)
        y += _BAR + _GAP
        for name, bar in panel.bars.items():
            pen.text((_EDGE, y), name, fill=_INK, font=font)
            x = float(_NAMES)
            pen.rectangle((x, y, x + scale * (panel.limit or longest), y + _BAR), fill=_PALE)
            for part, value in bar.items():
                if value > 0:
                    pen.rectangle((x, y, x + scale * value, y + _BAR), fill=colours[part])
                x += scale * value
            pen.text((_WIDTH - _NUMBERS, y), f"{sum(bar.values()):.2f}", fill=_INK, font=font)
            y += _BAR + _GAP
        x = _EDGE
        for part in parts:
            pen.rectangle((x, y + 3, x + 10, y + 13), fill=colours[part])
            pen.text((x + 14, y), part, fill=_INK, font=font)
            x += 30 + round(font.getlength(part))
        y += _BAR + _GAP + 2 * _EDGE
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)

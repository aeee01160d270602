"""The parts of the report page: its frame and style, sections, tables, pictures inside the page itself."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6b6b70; --line: #dcdce0; --paper: #fff; --tile: #f4f4f6;
  --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececef; --soft: #a0a0a8; --line: #3a3a40; --paper: #161618;
  --tile: #232327; --good: #56d364; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 80px; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 24px 0 0; }
p { color: var(--soft); margin: 0 0 12px; max-width: 84ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 10px; margin-top: 18px; }
.tile { background: var(--tile); border-radius: 8px; padding: 10px 14px; font-size: 13px; }
.tile b { display: block; font-size: 20px; } .good b { color: var(--good); } .bad b { color: var(--bad); }
.scroll { overflow-x: auto; margin-bottom: 14px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
th { color: var(--soft); font-weight: 500; max-width: 120px; } th:first-child, td:first-child { text-align: left; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(176px, 1fr)); gap: 16px 14px; }
.cells.wide { grid-template-columns: repeat(auto-fill, minmax(336px, 1fr)); }
figure { margin: 0; } figure div { display: flex; gap: 3px; flex-wrap: wrap; }
span { display: block; line-height: 1.2; } small { color: var(--soft); font-size: 11px; }
img { width: 84px; height: 84px; image-rendering: pixelated; border: 1px solid var(--line); border-radius: 4px;
  background: #fff; display: block; }
.wide img { width: 64px; height: 64px; }
figcaption { font-size: 12.5px; line-height: 1.35; margin-top: 3px; }
.charts { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 18px; }
svg { flex: 1 1 320px; max-width: 420px; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg .title { font-size: 13px; fill: var(--ink); } svg .grid { stroke: var(--line); }
""".replace("{", "{{").replace("}", "}}")

PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title><style>"
    + _STYLE
    + "</style></head><body><h1>{title}</h1><p>{lead}</p>{body}</body></html>\n"
)


def section(title: str, lead: str, body: str) -> str:
    """A headed part of the page: plain ``lead``, ``body`` as HTML."""
    return f"<section><h2>{escape(title)}</h2>{f'<p>{escape(lead)}</p>' if lead else ''}{body}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table; floats are rounded for reading."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(_number(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def cell(caption: str, pictures: Sequence[np.ndarray], names: Sequence[str]) -> str:
    """Pictures (uint8 [h,w,3]) side by side, each over its name, all over one caption."""
    shown = "".join(
        f'<span><img src="{_png(picture)}" alt="{escape(f"{name}: {caption}" if caption else name)}">'
        f"<small>{escape(name)}</small></span>"
        for picture, name in zip(pictures, names)
    )
    return f"<figure><div>{shown}</div>{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _png(picture: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()

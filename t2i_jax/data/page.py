"""A page of a data set: its facts and some of its pictures with their captions, in one HTML file."""

import base64
import html
import io
from pathlib import Path

from t2i_jax.data.dataset import DAMAGE, Dataset
from t2i_jax.data.inspect import Facts
from t2i_jax.data.pictures import BadPicture, decode

_SIDE, _CAPTIONS = 160, 3
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #6a8fd8; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid var(--line); } .bar { background: var(--bar); height: .8rem; min-width: 1px; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 1rem; }
figure { margin: 0; overflow-wrap: anywhere; font-size: 13px; } figcaption p { margin: .2rem 0; }
figure img { max-width: 160px; max-height: 160px; border: 1px solid var(--line); background: #fff; }
.key, .bad { opacity: .7; font-size: 11px; }
"""


def write_page(facts: Facts, dataset: Dataset, out: str | Path, count: int = 48) -> None:
    """Write ``out``, with ``count`` evenly spaced examples."""
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in facts.rows())
    shapes, most = facts.shapes(), max([1, *(number for _, number in facts.shapes())])
    bars = "".join(
        f'<tr><td class="n">{html.escape(name)}</td><td class="n">{number:,}</td>'
        f'<td style="width:24rem"><div class="bar" style="width:{100 * number / most:.1f}%"></div></td></tr>'
        for name, number in shapes
    )
    title = html.escape(f"{facts.name} {facts.split}")
    step = max(1, len(dataset) // count)
    tiles = "".join(_tile(record) for record in dataset.records(range(0, len(dataset), step)[:count]))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><table>{rows}</table><h2>Width over height</h2><table>{bars}</table>"
        f"<h2>One example in {step}</h2><main>{tiles}</main></html>\n",
        encoding="utf-8",
    )


def _tile(record: dict) -> str:
    try:
        picture = decode(record["image"], at_least=(_SIDE, _SIDE))
        picture.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        picture.save(out, "PNG")
        shown = f'<img alt="" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'
    except BadPicture as error:
        shown = f'<p class="bad">{html.escape(record.get(DAMAGE) or str(error))}</p>'
    captions = record["captions"][:_CAPTIONS]
    more = len(record["captions"]) - len(captions)
    words = "".join(f"<p>{html.escape(caption[:300])}</p>" for caption in captions)
    words += f'<p class="key">and {more} more</p>' if more else ""
    return f'<figure>{shown}<figcaption>{words}<p class="key">{html.escape(record["key"])}</p></figcaption></figure>'

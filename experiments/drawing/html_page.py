"""Build HTML pages of one file: no scripts, no requests, light or dark, on paper and on phones."""

import base64
import html
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WIDTH = 420  # of a picture on a page
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Colors are triples, so that a cell can be filled with any strength of one; text can be read on it
# up to --depth. A table that goes on beyond its frame has a shadow on that side: the shadow stays,
# and what covers it, in the paper's color, moves along with the table's ends.
STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --panel: #fff; --ink: #1b1f24; --soft: \
#59626e; --line: #dde1e6;
  --good: 42,111,176; --error: 194,65,12; --depth: .78; --shade: rgba(0,0,0,.28) }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #13161a; --panel: #1a1f25; --ink: #e7eaee; --soft: #a3acb8; --line: #313943;
    --good: 109,179,242; --error: 255,149,102; --depth: .5; --shade: rgba(255,255,255,.3) } }
* { box-sizing: border-box }
html { background: var(--paper); color: var(--ink) }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1.2rem; max-width: 1280px }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .2rem 0 .4rem } h2 { font-size: 1.25rem; \
margin: 2.2rem 0 .3rem }
h1, h2, h3, p, figcaption { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem .15rem 0; text-align: right } th { font-weight: 600 }
td:first-child, th:first-child { text-align: left }
.scroll { overflow-x: auto; max-width: 100%; background:
  linear-gradient(90deg, var(--paper) 1rem, transparent) local,
  linear-gradient(270deg, var(--paper) 1rem, transparent) 100% 0 local,
  linear-gradient(90deg, var(--shade), transparent) scroll,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 scroll;
  background-size: 2rem 100%, 2rem 100%, .8rem 100%, .8rem 100%; background-repeat: no-repeat }
.class { white-space: nowrap }
.wrong { color: rgb(var(--error)) } .soft { color: var(--soft) }
.bar { display: inline-block; height: .7em; background: rgb(var(--good)) }
i.color { display: inline-block; width: 1em; height: 1em; border: 1px solid #888; vertical-align: \
-.15em; margin-inline-end: .35em }
@page { margin: 12mm }
@media print { html { font-size: 10px; background: none } body { max-width: none; padding: 0; \
font-size: 1rem }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  .scroll { overflow: visible; background: none } h2, h3 { break-after: avoid } tr, figure { break-inside: avoid } }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page. The parts are HTML, the title is text."""
    title = html.escape(title)
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        # The empty icon keeps a browser from asking a server for one.
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<link rel="icon" href="data:,">\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>'
        f"<body><h1>{title}</h1>"
    )
    return "\n".join([head, *parts, "</body></html>\n"])


def swatch(color: Sequence[int]) -> str:
    return f'<i class="color" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'


def colored_name(name: str, color: Sequence[int]) -> str:
    return f'<span class="class">{swatch(color)}{html.escape(name)}</span>'


def short_count(pixels: float) -> str:
    """Three digits and a unit, such as "1.2 M"."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if pixels >= unit:
            return f"{pixels / unit:.3g} {letter}"
    return f"{pixels:.0f}"


def section(title: str, text: str = "not measured") -> str:
    """A heading, and how to read what follows."""
    return f'<h2>{title}</h2><p class="soft">{text}</p>'


def row(head: str, cells: Iterable[str]) -> str:
    """A row of a table; its cells are whole elements."""
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def table(heads: Iterable[str], rows: Iterable[str], spoken: str, kind: str = "") -> str:
    """A table in a frame that scrolls where the screen is narrower, by keyboard too."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(spoken)}">'
        f'<table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def table_of(records: Sequence[dict[str, str]], spoken: str, kind: str = "") -> str:
    """A table of rows that give each column's cell by its heading; the first is the row's own."""
    rows = []
    for first, *cells in (record.values() for record in records):
        rows.append(row(first, (f"<td>{cell}</td>" for cell in cells)))
    return table(records[0], rows, spoken, kind)


def embedded(picture: "np.ndarray", smooth: bool) -> str:
    """A small copy as a data URI: photographs as JPEG, flat colors as PNG."""
    from PIL import Image

    height, width = picture.shape[:2]
    small = min(WIDTH, width)
    kind = "JPEG" if smooth else "PNG"
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    copy = Image.fromarray(picture).resize((small, max(round(height * small / width), 1)), method)
    file = BytesIO()
    copy.save(file, kind, quality=82, optimize=not smooth)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"

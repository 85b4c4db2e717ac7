"""What a page shows of its modules' samples, as HTML; all words in it are escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from context_module.demo.outputs import Output

__all__ = ["CSS", "markup_of", "problem"]

CSS = """
.gradio-container { max-width: 1240px !important; overflow: clip !important; }
#page { display: grid; gap: 1rem; align-items: start;
  grid-template: "samples controls" auto "code controls" 1fr / minmax(0, 3fr) minmax(0, 2fr); }
#samples { grid-area: samples; }
#controls { grid-area: controls; }
#code { grid-area: code; }
.samples { display: flex; flex-wrap: wrap; gap: 1rem; }
.samples figure { flex: 1 1 300px; min-width: 0; margin: 0; }
.samples figcaption { font-weight: 600; margin-bottom: .3rem; }
.samples img { width: 100%; max-width: 800px; max-height: 50vh; object-fit: contain; object-position: left top;
  image-rendering: pixelated; }
.samples table { width: 100%; border-collapse: collapse; border: 0; }
.samples th, .samples td { padding: .35rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere;
  border: 0; border-bottom: 1px solid var(--border-color-primary); }
.samples a, .links a { color: var(--link-text-color); text-decoration: underline; padding: 0; }
.links { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .5rem 0 0; font-size: .9rem; }
.problem { padding: .6rem .8rem; margin-bottom: .6rem; border-left: 4px solid #c2410c; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); color: var(--body-text-color); }
.concepts { gap: .4rem !important; }
.concept { align-items: center !important; gap: .4rem !important; flex-wrap: nowrap !important; }
.concept > :first-child { min-width: 0 !important; flex: 1 1 0 !important; }
.concept > :not(:first-child):not(button) { min-width: 0 !important; flex: 0 0 5.9rem !important; }
.concept .narrow { flex: 0 0 auto !important; min-width: 2.4rem !important; width: auto !important; }
.concept .wide { flex: 0 0 8rem !important; }
@media (max-width: 768px) {
  #page { display: flex; flex-direction: column; align-items: stretch; margin: 0 -1.5rem;
    width: calc(100% + 3rem) !important; }
  #page > * { width: 100% !important; min-width: 0 !important; }
  #samples { position: sticky; top: 0; z-index: 99; padding: .3rem 0; max-height: 45vh;
    overflow: auto !important; background: var(--body-background-fill); }
  .samples img { max-height: 33vh; }
  .links span { display: none; }
  .concept .head { flex-wrap: nowrap; }
}
"""


def markup_of(outputs: Sequence[Output], link: str) -> str:
    """The samples of one or two modules, side by side where there is room, and what to take along.

    Args:
        outputs: of each module.
        link: the query string that leads back here.
    """
    figures = "".join(_figure(output) for output in outputs)
    side = "Side by side" if outputs[0].texts else "Below each other"
    said = f"{side}: one sample, as it is and under the intervention."
    anchor = f'<a id="link" href="{escape(link)}">Link to this</a>'
    return f'<div class="samples">{figures}</div><p class="links"><span>{said}</span>{anchor}</p>'


def problem(message: object) -> str:
    """A message about what cannot be done."""
    return f'<p class="problem" role="alert">{escape(str(message))}</p>'


def _figure(output: Output) -> str:
    caption, name = escape(output.module), escape(output.name)
    kind = "text/markdown" if output.texts else "image/png"
    address = f"data:{kind};base64,{base64.b64encode(output.content).decode()}"
    if output.texts:
        take = f'<a download="{name}" href="{address}">{name}</a>'
        return f"<figure><figcaption>{caption}</figcaption>{_table(output)}{take}</figure>"
    # the picture is once in the page: its link takes it from there
    source = "this.href = this.closest('figure').querySelector('img').src"
    take = f'<a download="{name}" href="#" onclick="{source}">{name}</a>'
    said = f"Images of {caption}: observational ones, and below them the same ones under the intervention"
    return f'<figure><figcaption>{caption}</figcaption><img src="{address}" alt="{said}">{take}</figure>'


def _table(output: Output) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in output.texts)
    size = max(map(len, output.texts.values()))
    columns = [texts * size if len(texts) == 1 else texts for texts in output.texts.values()]
    rows = (
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>" for texts in zip(*columns, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

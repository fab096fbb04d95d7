"""Figures of matplotlib inside an HTML page: inline SVG whose text is text."""

import html
import io
import re

import matplotlib
from matplotlib.figure import Figure

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "keras_rram", "font.family": "sans-serif"}


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """Returns a figure as an `<svg>` element.

    Args:
        figure: the figure.
        name: a word that no other figure of the page has: ids of a page must differ.
        title: what it shows, in words, for those who cannot see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    label = html.escape(title, quote=True)
    # The page says how large it is.
    start, end = text.split(">", 1)
    text = re.sub(r' (height|width)="[^"]*"', "", start) + ">" + end
    head = f'<svg role="img" aria-label="{label}" class="plot" '
    return head + text[len("<svg ") :].strip()

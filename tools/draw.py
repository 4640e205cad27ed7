"""Draw the diagrams of ``diagrams.yaml``: ``python -m tools.draw`` rewrites them in notebooks/images.

One language for all: a box is a program, a sheet is files, a drum is a store, a pill is a value.
A dashed border is what you rewrite for the next model, a dotted arrow is another possible way.
"""

from functools import partial
from html import escape
from pathlib import Path

import yaml

from helpers import paths

WIDTH, INK, SOFT, GREY = 760, "#1c2430", "#485364", "#5b6879"
COLOURS = {  # kind: inside, border
    "program": ("#e8f0fb", "#3f6fae"),
    "server": ("#e6f4ec", "#2f7d54"),
    "rewrite": ("#fff1dc", "#a85b00"),
    "files": ("#ffffff", "#6b7686"),
    "value": ("#f1edf9", "#6b53a8"),
    "card": ("#fcfcfa", "#c3cad3"),
}


def text(x, y, words, size=13, weight="normal", color=SOFT, anchor="middle"):
    """Write one line; ``y`` is its baseline."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def note(y, *words):
    """Write what to see in the picture, at the left."""
    return "".join(text(28, y + 20 * i, line, 14, anchor="start") for i, line in enumerate(words))


def shape(kind, outline, x, y, words, bold, corner=None, number=""):
    """Draw an outline; words around its middle, ``bold`` of them in bold; a notebook's number on its corner."""
    dash = 'stroke-dasharray="7 5"' if kind == "rewrite" else ""
    drawn = f'<path d="{outline}" fill="{COLOURS[kind][0]}" stroke="{COLOURS[kind][1]}" stroke-width="2" {dash}/>'
    for i, line in enumerate(words):
        drawn += text(x, y + 5 + 19 * (i - (len(words) - 1) / 2), line, *((14, "bold", INK) if i < bold else ()))
    if number:
        drawn += f'<circle cx="{corner[0] + 4}" cy="{corner[1] + 2:g}" r="15" fill="{INK}"/>'
        drawn += text(corner[0] + 4, corner[1] + 7, number, 14, "bold", "#ffffff")
    return drawn


def box(x, y, w, h, *words, kind="program", keys=False, bold=1, number=""):
    """Draw a program; that it is rewritten, or needs keys, is said in words as well."""
    middle, foot, r = x + w / 2, y + h - 25 * keys, 15 if kind == "value" else 9
    outline = (
        f"M{x + r},{y}h{w - 2 * r}a{r},{r} 0 0 1 {r},{r}v{h - 2 * r}a{r},{r} 0 0 1 {-r},{r}"
        f"h{2 * r - w}a{r},{r} 0 0 1 {-r},{-r}v{2 * r - h}a{r},{r} 0 0 1 {r},{-r}z"
    )
    drawn = shape(kind, outline, middle, (y + foot - 24 * (kind == "rewrite")) / 2, words, bold, (x, y), number)
    if kind == "rewrite":
        drawn += text(middle, foot - 11, "rewrite per model", 13, "bold", COLOURS[kind][1])
    if keys:
        drawn += (
            f'<path d="M{middle - 21:g},{foot + 7}a5,5 0 1 0 -10,0a5,5 0 1 0 10,0h16v6m-6,-6v5" fill="none" '
            f'stroke="{INK}" stroke-width="2.2"/>' + text(middle + 2, foot + 12, "keys", 13, "bold", INK, "start")
        )
    return drawn


pill = partial(box, kind="value", bold=0)  # values


def files(x, y, w, *words, bold=0, number="", h=0):
    """Draw a sheet with a folded corner, ``y`` its middle."""
    h = h or 19 * len(words) + 18
    outline = f"M{x},{y - h / 2:g}h{w - 12}l12,12v{h - 12}h{-w}zm{w - 12},0v12h12"
    return shape("files", outline, x + w / 2, y + 2, words, bold, (x, y - h / 2), number)


def drum(x, y, w, h, *words):
    """Draw a store."""
    arc = f"a{w / 2:g},10 0 0 0"
    outline = f"M{x},{y + 10}v{h - 20}{arc} {w},0v{20 - h}{arc} {-w},0{arc} {w},0"
    return shape("server", outline, x + w / 2, y + h / 2 + 6, words, 1)


def arrow(*points, dotted=False):
    """Draw an arrow through points; its last piece is level or upright."""
    (a, b), (x, y) = points[-2:]
    dx, dy = (x > a) - (x < a), (y > b) - (y < b)
    style = '3" stroke-linecap="round" stroke-dasharray="0.1 6"' if dotted else '2"'
    return (
        f'<path d="M{"L".join(f"{x},{y}" for x, y in points)}" fill="none" stroke="{GREY}" stroke-width="{style}/>'
        f'<path d="M{x},{y}l{-9 * dx - 5 * dy},{-9 * dy - 5 * dx}l{10 * dy},{10 * dx}z" fill="{GREY}"/>'
    )


def level(y, *ends):
    """Draw level arrows, each from one end to the next."""
    return "".join(arrow((a, y), (b, y)) for a, b in zip(ends[::2], ends[1::2], strict=True))


PARTS = {function.__name__: function for function in (text, note, box, files, drum, arrow, level)} | {"pill": pill}


def draw(title: str, height: int, description: str, parts: list) -> str:
    """Return a diagram as SVG.

    Parameters
    ----------
    title, description : str
        For who cannot see it.
    height : int
        Of the card, in pixels.
    parts : list
        Each a mapping from the name of a function above to its arguments, with its options beside; or SVG as it is.

    Returns
    -------
    str
        The file's text.
    """
    drawn = [box(1, 1, WIDTH - 2, height - 2, kind="card"), text(28, 36, title, 17, "bold", INK, "start")]  # light
    for part in parts:
        if isinstance(part, str):
            drawn.append(part)
        else:
            (name, arguments), *options = part.items()
            drawn.append(PARTS[name](*arguments, **dict(options)))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="title desc" font-family="Helvetica, Arial, sans-serif">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>'
    )
    return "\n".join([head, *drawn, "</svg>\n"])


if __name__ == "__main__":
    figures = yaml.safe_load(Path(__file__).with_name("diagrams.yaml").read_text(encoding="utf-8"))
    for name, figure in figures.items():
        (paths.NOTEBOOKS / "images" / f"{name}.svg").write_text(draw(**figure), encoding="utf-8")

"""Building blocks of the page. Every function takes plain text, escapes it, and returns `Html`; nothing else does."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NewType

Html = NewType("Html", str)

STYLE = (Path(__file__).parent / "style.css").read_text()


def text(words: str) -> Html:
    return Html(escape(words))


def join(parts: Iterable[Html]) -> Html:
    return Html("\n".join(parts))


def number(value: float | None, *, digits: int = 3) -> Html:
    """A number rounded for the eye; the `value` attribute and the tooltip keep it as it was written."""
    if value is None:
        return Html('<span class="none">–</span>')
    exact = repr(value)
    return Html(f'<data value="{exact}" title="{exact}">{readable(value, digits=digits)}</data>')


def readable(value: float, *, digits: int = 3) -> str:
    """At least `digits` significant digits, never scientific notation for everyday sizes: 0.0123, 12.3, 4560."""
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.{digits - 1}e}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min 30 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 120:
        return f"{readable(seconds)} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def paragraph(words: str, *, kind: str = "") -> Html:
    return Html(f'<p class="{escape(kind)}">{escape(words)}</p>' if kind else f"<p>{escape(words)}</p>")


def section(title: str, *parts: Html) -> Html:
    return Html(f"<section>\n<h2>{escape(title)}</h2>\n{join(parts)}\n</section>")


def data_uri(image: bytes) -> str:
    """The picture itself as an address; PNG and JPEG are told apart by their first bytes."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def figure(image: bytes, caption: str) -> Html:
    """A picture with its caption; on a narrow screen it keeps a legible size and scrolls sideways."""
    words = escape(caption)
    picture = f'<div class="scroll"><img src="{data_uri(image)}" alt="{words}"></div>'
    return Html(f"<figure>{picture}<figcaption>{words}</figcaption></figure>")


def table(head: Sequence[str], rows: Sequence[Sequence[Html]], *, numeric: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways on a narrow screen; columns in `numeric` are set flush right."""

    def cell(tag: str, column: int, content: str) -> str:
        return f'<{tag} class="right">{content}</{tag}>' if column in numeric else f"<{tag}>{content}</{tag}>"

    top = "".join(cell("th", i, escape(name)) for i, name in enumerate(head))
    body = "\n".join("<tr>" + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>" for row in rows)
    return Html(f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>')


def swatch(colour: str, words: str) -> Html:
    return Html(f'<span class="swatch" style="background:{escape(colour)}"></span>{escape(words)}')


def details(summary: str, content: str) -> Html:
    return Html(f"<details><summary>{escape(summary)}</summary><pre>{escape(content)}</pre></details>")


def glossary(meanings: Mapping[str, str]) -> Html:
    """Small print: a word and what it means, one per line."""
    items = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in meanings.items())
    return Html(f'<dl class="glossary">{items}</dl>')


def tile(value: str, label: str, remark: str) -> Html:
    """A key number: the value large, what it is, and what to compare it with."""
    return Html(
        f'<div class="tile"><div class="value">{escape(value)}</div><div class="label">{escape(label)}</div>'
        f'<div class="remark">{escape(remark)}</div></div>'
    )


def document(title: str, body: Html) -> str:
    """The whole page, which asks nothing of the network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )

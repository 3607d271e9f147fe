"""HTML and SVG as trees: what is text stays text, whoever wrote it. Pure."""

from __future__ import annotations

import re
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from mobifarm.workloads.plain_text import printable

# Marks that turn a line's direction: with them a phone's text could change what its neighbours seem to say.
_DIRECTION: Final = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Halves of a pair of UTF-16, which no file in UTF-8 can hold.
_SURROGATES: Final = re.compile("[\ud800-\udfff]")

Child = Element | str | None


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Element:
    """An element with its children in order; None is left out, of attributes too.

    Attributes that Python cannot spell get an underscore for each hyphen, and at the end where the word is
    reserved: ``class_``, ``text_anchor``.
    """
    made = Element(
        name,
        {
            key.rstrip("_").replace("_", "-"): clean(
                number(value) if isinstance(value, float) else str(value)
            )
            for key, value in attributes.items()
            if value is not None
        },
    )
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None:
            _append_text(made, clean(child))
    return made


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def prose(text: str) -> list[Child]:
    """The words of a sentence; what stands between two `backticks` is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return [text]
    return [element("code", part) if place % 2 else part for place, part in enumerate(parts)]


def clean(text: str) -> str:
    """The text without what is no text: control characters, marks of direction, halves of a character."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", _DIRECTION.sub("", printable(text)))


def number(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def document(head: list[Element], body: list[Element], css: str) -> str:
    """A whole page. ``css`` stands in it as it is: it must not come from anybody else."""
    root = element("html", lang="en")
    top = SubElement(root, "head")
    top.append(element("meta", charset="utf-8"))
    top.extend(head)
    style = SubElement(top, "style")
    style.text = css
    SubElement(root, "body").extend(body)
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"

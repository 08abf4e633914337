"""XML with blanks: one form, made of elements, for many texts that differ in a few values only.

A blank is all of an element's text or all of an attribute's value. What it is filled with is
escaped as ElementTree escapes it, so that no value is ever read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

# private characters, which mean nothing in XML and come out of it as they went in
_BEGIN, _END = "\ue000", "\ue001"
_IN_ATTRIBUTES = {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#09;"}


@dataclass(frozen=True, slots=True)
class Form:
    """A text around its blanks."""

    before: tuple[tuple[str, str, bool], ...]
    """Of each blank the text before it, what it is called, and whether it is in an attribute."""
    end: str

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with *values*, by what their blanks are called."""
        parts = []
        for text, name, in_attribute in self.before:
            value = values[name]
            parts.append(text)
            parts.append(escape(value, _IN_ATTRIBUTES) if in_attribute else escape(value))
        return "".join((*parts, self.end))


def blank(name: str) -> str:
    """What to write where the value called *name* is to be filled in."""
    return f"{_BEGIN}{name}{_END}"


def form_of(element: ET.Element, names: Iterable[str]) -> Form:
    """*element* as text, with blanks for *names*."""
    text = ET.tostring(element, encoding="unicode")
    *pieces, end = re.split(f"{_BEGIN}({'|'.join(names)}){_END}", text)
    texts, called = pieces[::2], pieces[1::2]
    # ElementTree writes attributes in double quotes
    before = [(text, name, text.endswith('="')) for text, name in zip(texts, called, strict=True)]
    return Form(tuple(before), end)

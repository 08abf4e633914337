"""A form that is filled in says what the same elements would with the values in them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import example, given
from hypothesis import strategies as st

from schedulerlocal.adapters.xmlform import blank, form_of

texts = st.text(min_size=1)


def elements(name: str, file: str) -> ET.Element:
    domain = ET.Element("domain", type="kvm")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(ET.SubElement(domain, "disk", plain="a=b"), "source", file=file, format="raw")
    ET.SubElement(domain, "title").text = name
    return domain


@given(texts, texts)
@example('<a b="c">&amp;]]>', "\"/><hostdev>\r\n\t'")
@example(blank("file"), blank("name"))
def test_filled_in_it_is_what_the_elements_say(name: str, file: str) -> None:
    form = form_of(elements(blank("name"), blank("file")), ("name", "file"))
    expected = ET.tostring(elements(name, file), encoding="unicode")
    assert form.filled({"name": name, "file": file}) == expected


@given(texts, texts)
def test_one_form_is_filled_in_again_and_again(name: str, file: str) -> None:
    form = form_of(elements(blank("name"), blank("file")), ("name", "file"))
    first = form.filled({"name": name, "file": file})
    form.filled({"name": file, "file": name})
    assert form.filled({"name": name, "file": file}) == first

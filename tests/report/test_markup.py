"""What was read from elsewhere stays text, whatever it holds."""

from __future__ import annotations

import json
import re

import pytest

from qdbev_deploy.report.markup import join, json_script, tag
from qdbev_deploy.report.units import byte_size, number, short_time, titled, valued

NASTY = "</script><script>alert(1)</script>\"'&<img onerror=x>"


def test_text_and_attributes_are_escaped_and_elements_are_not() -> None:
    inner = tag("b", NASTY)
    element = tag("p", inner, NASTY, title=NASTY, class_="a", hidden=None, stroke_width=1.50)
    assert "<img" not in element
    assert "<script" not in element
    assert element.startswith('<p title="&lt;/script&gt;')
    assert 'class="a" stroke-width="1.5"' in element
    assert inner in element
    assert "hidden" not in element
    assert join("a<", tag("br")) == "a&lt;<br>"


def test_a_document_in_a_page_cannot_leave_its_element() -> None:
    document = {"name": NASTY, "line": "\u2028"}
    element = json_script("document", document)
    assert element.count("<") == 2  # its own two tags
    content = re.fullmatch(r"<script[^>]*>(.*)</script>", element, re.DOTALL)
    assert content is not None
    assert json.loads(content.group(1)) == document
    with pytest.raises(ValueError, match="JSON compliant"):
        json_script("document", {"value": float("nan")})


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (31.234, "31.2"), (0.01234, "0.0123"), (12_345.6, "12,346"), (2000, "2,000"), (0.999, "0.999"),
     (-3, "-3"), (1e-7, "1.00e-07"), (345.67, "345.7")],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(value: float, said: str) -> None:
    assert number(value) == said


def test_a_key_brings_its_unit() -> None:
    assert (titled("rss_peak_bytes"), valued("rss_peak_bytes", 410_000_000)) == ("rss peak", "410 MB")
    assert (titled("rate_hz"), valued("rate_hz", 20)) == ("rate", "20 Hz")
    assert valued("overhead_us", 12.0) == "12 µs"
    assert valued("power_w", None) == "not measured"
    assert valued("sharing", ["MIG", "MPS"]) == "MIG, MPS"
    assert (valued("c", 3), titled("c"), valued("settled", True)) == ("3", "c", "yes")
    assert byte_size(999.6) == "1.00 kB"
    assert (short_time(0.006), short_time(0.25)) == ("6 µs", "0.250 ms")

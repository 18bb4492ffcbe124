"""The report of a benchmark as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.files import atomic_output
from qdbev_deploy.report import sections
from qdbev_deploy.report.document import read_bench
from qdbev_deploy.report.markup import Element, json_script, raw, tag

# The page may neither load nor send anything; what it shows is in it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_DOWNLOAD = """\
document.getElementById("download").href = URL.createObjectURL(
  new Blob([document.getElementById("document").textContent], {type: "application/json"}));
"""


def page(title: str, *body: Element) -> str:
    """A whole HTML file around some elements, in the house's style."""
    style = resources.files("qdbev_deploy.report").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", raw(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def report_html(document: Mapping[str, Any], layers: Sequence[Layer] | None = None) -> str:
    """The page of a benchmark's document; `layers` of its bundle add multiply-accumulates and kinds."""
    bench = read_bench(document, layers)
    name = bench.part("bundle").get("name", "a bundle")
    body = tag(
        "main",
        sections.header(bench),
        sections.verdict(bench),
        sections.cards(bench),
        sections.latency(bench),
        sections.stages(bench),
        sections.stream(bench),
        sections.by_scenario(bench),
        sections.soak(bench),
        sections.layers(bench.layers),
        sections.memory(bench),
        sections.power(bench),
        sections.rest(bench),
        sections.footer(bench),
    )
    return page(f"{name}: latency", body, json_script("document", document), tag("script", raw(_DOWNLOAD)))


def write_report(
    document: Mapping[str, Any], path: str | os.PathLike[str], layers: Sequence[Layer] | None = None
) -> None:
    """Write the report; it appears whole or not at all."""
    content = report_html(document, layers)
    with atomic_output(path) as partial:
        partial.write_text(content, encoding="utf-8")

"""Shares and sizes as bars: stages of a frame, layers, precisions, memory; and quantities over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qdbev_deploy.report.chart import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Plot,
    drawing,
    labelled,
    linear,
    ticks,
    value_range,
)
from qdbev_deploy.report.decimate import buckets
from qdbev_deploy.report.markup import Element, join, tag
from qdbev_deploy.report.names import short_layer

_CHARACTER = 6.6  # pixels of a letter at 12 px, on average


@dataclass(frozen=True)
class Bar:
    """A row: its name, its value, a class that colours it, and what hovering says."""

    name: str
    value: float
    class_: str
    said: str
    label: str


def rows(title: str, describes: str, bars: Sequence[Bar], *, names_width: int = 330) -> Element:
    """One bar a row, long names of layers made shorter."""
    row, top = 22, 6
    right = WIDTH - 96
    x = linear(0, max((bar.value for bar in bars), default=1) or 1, names_width, right)
    marks = []
    for index, bar in enumerate(bars):
        y = top + index * row
        marks.append(
            tag(
                "g",
                tag("title", bar.said),
                tag("rect", x=0, y=y, width=WIDTH, height=row, class_="row"),
                tag(
                    "text",
                    short_layer(bar.name, int(names_width / _CHARACTER) - 2),
                    x=names_width - 8,
                    y=y + 15,
                    text_anchor="end",
                    class_="name",
                ),
                tag(
                    "rect",
                    x=names_width,
                    y=y + 4,
                    width=max(x(bar.value) - names_width, 1),
                    height=row - 8,
                    rx=2,
                    class_=f"bar {bar.class_}",
                ),
                tag("text", bar.label, x=x(bar.value) + 6, y=y + 15, class_="value"),
            )
        )
    return drawing(title, describes, top * 2 + row * len(bars), *marks)


def stacked(title: str, describes: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> Element:
    """One full-width bar a group, cut by the shares of its members."""
    row, names_width = 40, 130
    marks = []
    for index, (name, bars) in enumerate(groups):
        y = 4 + index * row
        whole = sum(bar.value for bar in bars) or 1
        marks.append(tag("text", name, x=names_width - 10, y=y + 20, text_anchor="end", class_="name"))
        start = float(names_width)
        for bar in bars:
            width = bar.value / whole * (WIDTH - RIGHT - names_width)
            inside = tag("text", bar.label, x=start + width / 2, y=y + 19, text_anchor="middle", class_="inside")
            fits = len(bar.label) * _CHARACTER + 8 < width
            marks.append(
                tag("g", tag("title", bar.said),
                    tag("rect", x=start, y=y, width=max(width - 1.5, 0.5), height=row - 12, class_=f"bar {bar.class_}"),
                    inside if fits else "")
            )  # fmt: skip
            start += width
    return drawing(title, describes, 4 + row * len(groups), *marks)


def series(
    title: str, describes: str, x_label: str, y_label: str, lines: Sequence[tuple[str, Sequence[float]]],
    *, x_end: float | None = None, format_value: Callable[[float], str] | None = None,
) -> Element:  # fmt: skip
    """Quantities over frames or seconds; every line keeps its extremes."""
    height = 240
    everything = [value for _, values in lines for value in values]
    low, high = value_range(min(everything), max(everything))
    longest = max(len(values) for _, values in lines)
    end = x_end if x_end is not None else float(max(longest - 1, 1))
    x, y = linear(0, end, LEFT, WIDTH - RIGHT), linear(low, high, height - BOTTOM, TOP)
    y_ticks = ticks(low, high, 4)
    named = [(value, format_value(value)) for value in y_ticks] if format_value else labelled(y_ticks)
    plot = Plot(title, describes, height, x, y, labelled(ticks(0, end, 8)), named, x_label, y_label)
    marks = []
    for index, (name, values) in enumerate(lines):
        points: list[str] = []
        step = end / max(len(values) - 1, 1)
        for run in buckets(values, 450):
            px = x((run.first + (run.count - 1) / 2) * step)
            points += [
                f"{px:.1f},{y(value):.1f}" for value in ({run.low: 0, run.high: 0} if run.count > 1 else [run.low])
            ]
        legend = join(
            tag("rect", x=LEFT + 10 + 190 * index, y=TOP - 8, width=14, height=4, class_=f"bar series-{index % 4}"),
            tag("text", name, x=LEFT + 30 + 190 * index, y=TOP - 2, class_="name"),
        )
        marks.append(
            join(
                tag("polyline", tag("title", name), points=" ".join(points), class_=f"line series-{index % 4}"), legend
            )
        )
    return plot.svg(*marks)

"""What every plot stands on: scales, ticks, a grid, labels; SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qdbev_deploy.report.markup import Element, join, tag
from qdbev_deploy.report.units import number

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1000, 62, 20, 16, 44

Scale = Callable[[float], float]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two ends, about `count` of them."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def value_range(low: float, high: float) -> tuple[float, float]:
    """Ends of an axis: from zero where the values are not all far from it, with air above."""
    floor = 0.0 if low <= 0.5 * high else low - 0.25 * ((high - low) or 0.2 * abs(high) or 1.0)
    return max(0.0, floor) if low >= 0 else floor, high + 0.06 * ((high - floor) or 1.0)


@dataclass(frozen=True)
class Plot:
    """A drawing with axes; `draw` puts marks inside."""

    title: str
    describes: str  # for who cannot see it
    height: int
    x: Scale
    y: Scale
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str
    y_label: str

    def svg(self, *marks: Element) -> Element:
        floor, ceiling = self.height - BOTTOM, TOP
        grid = [
            join(
                tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=self.y(value), y2=self.y(value), class_="grid"),
                tag("text", label, x=LEFT - 8, y=self.y(value) + 4, text_anchor="end"),
            )
            for value, label in self.y_ticks
        ]
        marks_below = [
            join(
                tag("line", x1=self.x(value), x2=self.x(value), y1=floor, y2=floor + 5, class_="axis"),
                tag("text", label, x=self.x(value), y=floor + 19, text_anchor="middle"),
            )
            for value, label in self.x_ticks
        ]
        frame = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="axis")
        labels = join(
            tag("text", self.x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=self.height - 6, text_anchor="middle",
                class_="label"),
            tag("text", self.y_label, x=0, y=0, text_anchor="middle", class_="label",
                transform=f"translate(14 {(floor + ceiling) / 2:.0f}) rotate(-90)"),
        )  # fmt: skip
        return drawing(self.title, self.describes, self.height, *grid, *marks, frame, *marks_below, labels)


def drawing(title: str, describes: str, height: float, *marks: Element, width: float = WIDTH) -> Element:
    """An SVG that scales with the page; its title and description are read out by screen readers."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", describes),
        *marks,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=f"{title}. {describes}",
        xmlns="http://www.w3.org/2000/svg",
    )


def horizontal(plot_y: float, label: str, class_: str, *, above: bool = True) -> Element:
    """A line across a plot with its name at the right end."""
    return join(
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=plot_y, y2=plot_y, class_=f"mark {class_}"),
        tag("text", label, x=WIDTH - RIGHT - 4, y=plot_y + (-5 if above else 14), text_anchor="end",
            class_=f"mark-text {class_}"),
    )  # fmt: skip


def labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    return [(value, number(value)) for value in values]

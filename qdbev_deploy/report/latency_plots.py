"""Latency three ways: frame by frame, as a histogram, and as the percentile curve of its tail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qdbev_deploy.report.chart import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Plot,
    horizontal,
    labelled,
    linear,
    ticks,
    value_range,
)  # fmt: skip
from qdbev_deploy.report.decimate import buckets, tail_ranks
from qdbev_deploy.report.document import is_number
from qdbev_deploy.report.markup import Element, join, tag
from qdbev_deploy.report.units import milliseconds, number

_COLUMNS = 900  # of samples on a plot: about one a pixel
_DOTTED = 300  # up to that many samples, each is a dot
_WORST = 5


def timeline(samples: Sequence[float], lines: Sequence[tuple[str, float, str]], starts: Sequence[int] = ()) -> Element:
    """Every frame in order. `lines`: (name, milliseconds, style) of percentiles and deadline; `starts`: of repeats."""
    height = 300
    low, high = value_range(min(samples), max([*samples, *(value for _, value, style in lines if style == "limit")]))
    x = linear(0, max(len(samples) - 1, 1), LEFT, WIDTH - RIGHT)
    y = linear(low, high, height - BOTTOM, TOP)
    runs = buckets(samples, _COLUMNS)
    every = len(runs) == len(samples)
    numbered = [value for value in ticks(0, max(len(samples) - 1, 1), 8) if float(value).is_integer()]
    what = f"{len(samples):,} frames from {milliseconds(min(samples))} to {milliseconds(max(samples))}"
    plot = Plot(
        "Latency of every frame, in order", what, height, x, y,
        labelled(numbered), labelled(ticks(low, high)), "frame", "ms",
    )  # fmt: skip
    middles = [(x(run.first + (run.count - 1) / 2), y(run.middle)) for run in runs]
    marks = [
        tag("line", tag("title", f"another repeat begins with frame {start}"), x1=x(start - 0.5), x2=x(start - 0.5),
            y1=TOP, y2=height - BOTTOM, class_="repeat")
        for start in starts
    ]  # fmt: skip
    if not every:
        spans = "".join(
            f"M{px:.1f} {y(run.low):.1f}V{min(y(run.high), y(run.low) - 1):.1f}" for run, (px, _) in zip(runs, middles)
        )
        marks.append(tag("path", d=spans, class_="span"))
    marks.append(tag("polyline", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in middles), class_="line"))
    if len(samples) <= _DOTTED:
        marks += [
            tag("circle", tag("title", f"frame {index}: {milliseconds(value)}"), cx=x(index), cy=y(value), r=2.2,
                class_="dot")
            for index, value in enumerate(samples)
        ]  # fmt: skip
    worst = sorted(range(len(samples)), key=lambda index: samples[index], reverse=True)[:_WORST]
    marks += [
        tag("circle", tag("title", f"frame {index}: {milliseconds(samples[index])}, among the {_WORST} slowest"),
            cx=x(index), cy=y(samples[index]), r=4, class_="worst")
        for index in worst
    ]  # fmt: skip
    marks += [
        horizontal(y(value), name, style, above=style != "p50") for name, value, style in lines if low <= value <= high
    ]
    return plot.svg(*marks)


def histogram(samples: Sequence[float], lines: Sequence[tuple[str, float, str]]) -> Element:
    """How often which latency; a bar of one frame is still seen. What lies far out is one bar at the right end."""
    height = 300
    edges, counts, beyond = bins(samples)
    top = max([*counts, beyond])
    outside = 40 if beyond else 0
    x = linear(edges[0], edges[-1], LEFT, WIDTH - RIGHT - outside)
    y = linear(0, top * 1.08, height - BOTTOM, TOP + 16)
    plot = Plot(
        "How often each latency occurred", f"{len(samples):,} frames in {len(counts)} bins", height, x, y,
        labelled(ticks(edges[0], edges[-1], 10)), labelled([v for v in ticks(0, top * 1.08) if float(v).is_integer()]),
        "ms", "frames",
    )  # fmt: skip

    def bar(start: float, end: float, count: int, said: str, style: str) -> Element:
        ceiling = min(y(count), y(0) - 1.5)
        return tag("rect", tag("title", said), x=start, y=ceiling, width=max(end - start - 0.8, 0.8),
                   height=y(0) - ceiling, class_=style)  # fmt: skip

    marks = [
        bar(x(low), x(high), count, f"{number(low)} to {milliseconds(high)}: {count:,} frames", "bar")
        for low, high, count in zip(edges[:-1], edges[1:], counts)
        if count
    ]
    if beyond:
        end = WIDTH - RIGHT
        said = f"above {milliseconds(edges[-1])}: {beyond:,} frames, up to {milliseconds(max(samples))}"
        marks.append(bar(end - 22, end, beyond, said, "bar beyond"))
        marks.append(tag("text", f"{beyond:,} beyond, up to {milliseconds(max(samples))}", x=end, y=TOP + 10,
                         text_anchor="end", class_="mark-text limit"))  # fmt: skip
    inside = [line for line in sorted(lines, key=lambda line: line[1]) if edges[0] <= line[1] <= edges[-1]]
    for level, (name, value, style) in enumerate(inside):
        right = x(value) > WIDTH - RIGHT - 60  # the name has no room beyond the line
        marks.append(
            join(
                tag("line", x1=x(value), x2=x(value), y1=TOP, y2=y(0), class_=f"mark {style}"),
                tag(
                    "text",
                    name,
                    x=x(value) + (-4 if right else 4),
                    y=TOP + 10 + 13 * (level % 3),
                    text_anchor="end" if right else None,
                    class_=f"mark-text {style}",
                ),
            )
        )
    return plot.svg(*marks)


def bins(samples: Sequence[float]) -> tuple[list[float], list[int], int]:
    """(edges, counts, samples beyond them): as fine as Freedman and Diaconis say, on the range where the bulk lies."""
    values = np.asarray(samples, dtype=np.float64)
    quarter, middle, three_quarters, tail = np.percentile(values, (25, 50, 75, 99))
    reach = middle + 4 * max(tail - middle, 1e-9)
    bulk = values[values <= reach] if values.max() > reach else values
    low, high = float(bulk.min()), float(bulk.max())
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1.0) * 0.01, high + 0.5 * (abs(high) or 1.0) * 0.01
    width = 2 * float(three_quarters - quarter) / len(bulk) ** (1 / 3)
    count = int(np.clip((high - low) / width if width > 0 else 10, 10, 120))
    counts, edges = np.histogram(bulk, bins=count, range=(low, high))
    return [float(edge) for edge in edges], [int(one) for one in counts], len(values) - len(bulk)


def percentile_curve(samples: Sequence[float], summary: Mapping[str, Any], confidence: str) -> Element:
    """Latency against percentile, the tail stretched by logarithm; intervals where the summary has them."""
    height = 320
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(ordered)
    # One sample is the last that can be told from the rest: beyond it the curve would be invention.
    tail = max(math.log10(count), 1.0)
    x = linear(0, tail, LEFT, WIDTH - RIGHT)
    highs = [entry["high"] for entry in summary.values() if isinstance(entry, Mapping) and is_number(entry.get("high"))]
    low, high = value_range(float(ordered[0]), max([float(ordered[-1]), *highs]))
    y = linear(low, high, height - BOTTOM, TOP)
    named = [(0.0, "0"), (0.3010, "p50"), (1.0, "p90"), (1.3010, "p95"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "p99.99"),
             (5.0, "p99.999")]  # fmt: skip
    plot = Plot(
        "Percentile curve", f"{count:,} samples; the tail is stretched: each ninth is as wide as the last", height, x,
        y, [(value, label) for value, label in named if value <= tail + 1e-9], labelled(ticks(low, high)),
        "percentile of frames", "ms",
    )  # fmt: skip

    def place(rank: int) -> float:
        return x(min(-math.log10(1 - rank / count), tail))

    points = [(place(rank), y(float(ordered[rank]))) for rank in tail_ranks(count)]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in points[1:])
    marks = [tag("path", d=f"{path}H{x(tail):.1f}", class_="line")]
    for name, entry in percentiles(summary):
        fraction = float(name[1:]) / 100
        position = -math.log10(1 - fraction)
        if position > tail or not is_number(entry.get("value")):
            continue
        px, enough = x(position), entry.get("enough", True)
        said = f"{name}: {milliseconds(entry['value'])}"
        if is_number(entry.get("low")) and is_number(entry.get("high")):
            said += f", {confidence} interval {number(entry['low'])} to {milliseconds(entry['high'])}"
            marks.append(
                tag("path", tag("title", said), class_="interval" if enough else "interval weak",
                    d=f"M{px - 5:.1f} {y(entry['low']):.1f}h10m-5 0V{y(entry['high']):.1f}m-5 0h10")
            )  # fmt: skip
        marks.append(
            tag("circle", tag("title", said + ("" if enough else "; too few samples")), cx=px, cy=y(entry["value"]),
                r=4, class_="dot" if enough else "dot weak")
        )  # fmt: skip
    return plot.svg(*marks)


def percentiles(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The percentiles of a summary, p50 first; a plain number is one without an interval."""
    found = []
    for name, entry in summary.items():
        if name[:1] == "p" and name[1:].replace(".", "", 1).isdigit():
            found.append((name, entry if isinstance(entry, Mapping) else {"value": entry}))
    return sorted(found, key=lambda item: float(item[0][1:]))

"""The small charts in the cells of tables, hidden from screen readers, because the cell beside them says the number."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from enginewright.report.compression_data import TimeSaved
from enginewright.report.svg import at, cell_chart, element
from enginewright_runtime.budget import Finding


def bar(share: float, kind: str) -> Markup:
    """One thin bar that fills `share` of its cell."""
    return cell_chart(8, element("rect", x=0, y=1, width=at(_clamp(share)), height=6, class_=kind))


def paired_bars(reference: float, engine: float, largest: float) -> Markup:
    """The reference's bar above the engine's, both as shares of `largest`."""
    scale = largest or 1.0
    return cell_chart(
        15,
        element("rect", x=0, y=1, width=at(reference / scale), height=5, class_="reference"),
        element("rect", x=0, y=8, width=at(engine / scale), height=6, class_="engine"),
    )


def diverging_bar(change: float, extent: float) -> Markup:
    """A bar to the left of the middle for a loss, to the right for a gain; `extent` fills half of the cell."""
    half = 0.5 * _clamp(abs(change) / extent) if extent else 0.0
    return cell_chart(
        14,
        element(
            "rect",
            x=at(0.5 - half if change < 0 else 0.5),
            y=3,
            width=at(half),
            height=8,
            class_="loss" if change < 0 else "gain",
        ),
        element("line", x1="50%", x2="50%", y1=0, y2=14, class_="axis"),
    )


def budget_bar(finding: Finding) -> Markup:
    """A finding's value as a bar from zero, its interval as a whisker and its limit as a line.

    An end of the interval that is not known leaves the picture without a stop.
    """
    assert finding.value is not None
    known = [end for end in (finding.low, finding.high) if end is not None]
    ends = (finding.value, finding.limit, *known)
    low, high = min(0.0, *ends), max(0.0, *ends) * 1.08 or 1.0

    def share(figure: float) -> float:
        return (figure - low) / (high - low)

    start, end = sorted((share(0.0), share(finding.value)))
    parts = [
        element("rect", x=0, y=7, width="100%", height=10, class_="track"),
        element(
            "rect",
            x=at(start),
            y=7,
            width=at(end - start),
            height=10,
            class_=f"verdict-{finding.verdict.value.lower()}",
        ),
    ]
    if known and finding.low != finding.high:
        left = 0.0 if finding.low is None else share(finding.low)
        right = 1.0 if finding.high is None else share(finding.high)
        parts.append(element("line", x1=at(left), x2=at(right), y1=12, y2=12, class_="whisker"))
        parts += [element("line", x1=at(share(x)), x2=at(share(x)), y1=8, y2=16, class_="whisker") for x in known]
    parts.append(element("line", x1=at(share(finding.limit)), x2=at(share(finding.limit)), y1=1, y2=23, class_="limit"))
    return cell_chart(24, *parts)


def largest_saving(savings: Iterable[TimeSaved]) -> float:
    """What half of the cell of `saving_bar` must hold, in nanoseconds, for all of them."""
    return max((max(abs(saved.low_ns), abs(saved.median_ns), abs(saved.high_ns)) for saved in savings), default=0.0)


def saving_bar(saved: TimeSaved, extent_ns: float) -> Markup:
    """A bar to the right of the middle for time saved, to the left for time lost, with its interval as a whisker.

    It has a colour only where the interval leaves no doubt about the sign.
    """
    scale = extent_ns or 1.0
    low, middle, high = (0.5 + 0.5 * value / scale for value in (saved.low_ns, saved.median_ns, saved.high_ns))
    start, end = sorted((0.5, middle))
    kind = "gain" if saved.low_ns > 0 else "loss" if saved.high_ns < 0 else "undecided"
    return cell_chart(
        14,
        element("rect", x=at(start), y=3, width=at(end - start), height=8, class_=kind),
        element("line", x1="50%", x2="50%", y1=0, y2=14, class_="axis"),
        *([element("line", x1=at(low), x2=at(high), y1=7, y2=7, class_="whisker")] if low < high else []),
    )


def _clamp(share: float) -> float:
    return min(1.0, max(0.0, share))

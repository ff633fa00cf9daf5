"""Numbers as a reader wants them: three significant digits and always a unit. The one place where the report rounds."""

from __future__ import annotations

import math

TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EM DASH}"  # a figure that does not exist


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in scientific notation, thousands set apart, with a true minus sign.

    >>> [significant(value) for value in (0.41234, 4.3, 61.66, 1234.5, 0.0)]
    ['0.412', '4.30', '61.7', '1,234', '0.00']
    """
    rounded = float(f"{value:.{digits - 1}e}")
    magnitude = math.floor(math.log10(abs(rounded))) if rounded else 0
    decimals = max(0, digits - 1 - magnitude)
    text = f"{abs(rounded) if decimals else abs(value):,.{decimals}f}"
    return f"{MINUS}{text}" if rounded < 0 else text


def milliseconds(duration_ns: float) -> str:
    """A latency. Always in milliseconds, the unit of the budgets, so that two of them compare at a glance.

    >>> milliseconds(412_345)
    '0.412 ms'
    """
    return f"{significant(duration_ns / 1e6)} ms"


def microseconds(duration_ns: float) -> str:
    """The time of one layer, of which an inference has many.

    >>> microseconds(41_020), microseconds(830), microseconds(1_250_000)
    ('41.0 µs', '0.830 µs', '1,250 µs')
    """
    return f"{significant(duration_ns / 1e3)} µs"


def signed_microseconds(duration_ns: float) -> str:
    """A difference of two latencies with its sign, for a column whose head says the unit.

    >>> [signed_microseconds(value) for value in (12_345, -8_060, 40, -1_234_567)]
    ['+12.3', '−8.1', '0.0', '−1,235']
    """
    microseconds = abs(duration_ns) / 1e3
    text = f"{microseconds:.1f}" if microseconds < 99.95 else f"{microseconds:,.0f}"
    sign = "" if text == "0.0" else "+" if duration_ns > 0 else MINUS
    return f"{sign}{text}"


def signed(change: float) -> str:
    """A change of a figure without a unit, as a loss.

    >>> signed(0.03121), signed(-1.5), signed(-0.0001)
    ('+0.031', '−1.500', '0.000')
    """
    rounded = round(change, 3)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else ""
    return f"{sign}{abs(rounded):.3f}"


def ordinal(number: int) -> str:
    """A place in an order.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 21, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '113th']
    """
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def duration(seconds: float) -> str:
    """The time that a step took.

    >>> [duration(value) for value in (0.004, 0.42, 12.34, 252.0, 3725.0)]
    ['4 ms', '0.42 s', '12.3 s', '4 min 12 s', '1 h 02 min']
    """
    if seconds < 0.0995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float, unit: str = "", *, like: float | None = None) -> str:
    """How many weights, or multiply-accumulates. `like`: the number whose prefix to take, so that two of them compare at a glance.

    >>> count(1_072_345, "weights"), count(143_100_000, "MACs"), count(870, "weights"), count(682_000, like=1_072_345)
    ('1.07 M weights', '143 M MACs', '870 weights', '0.682 M')
    """
    prefix, scale = _prefix(number if like is None else like, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")))
    figure = f"{significant(number / scale)} {prefix}" if prefix else f"{number:,.0f}"
    return f"{figure} {unit}".rstrip()


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "session"), counted(1_600, "sample")
    ('1 session', '1,600 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def file_size(size_bytes: float, *, like: float | None = None) -> str:
    """A size on disk or in memory, in the binary units of the budgets. `like`: the size whose unit to take.

    >>> file_size(4_508_876), file_size(870), file_size(20_480), file_size(758_332, like=4_508_876)
    ('4.30 MiB', '870 B', '20.0 KiB', '0.723 MiB')
    """
    prefix, scale = _prefix(
        size_bytes if like is None else like, ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"))
    )
    return f"{significant(size_bytes / scale)} {prefix}B" if prefix else f"{size_bytes:,.0f} B"


def percent(share: float) -> str:
    """A share of a whole.

    >>> percent(0.96418)
    '96.42 %'
    """
    return f"{share * 100:.2f} %"


def points(change: float) -> str:
    """A change of a share, in percentage points with its sign.

    >>> points(-0.0021), points(0.004), points(0.0)
    ('−0.21 points', '+0.40 points', '0.00 points')
    """
    return f"{signed_points(change)} points"


def signed_points(change: float) -> str:
    """The figure of `points` alone, for a column whose head says the unit."""
    rounded = round(change * 100, 2)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else ""
    return f"{sign}{abs(rounded):.2f}"


def times(ratio: float) -> str:
    """How many times.

    >>> times(2.714)
    '2.71×'
    """
    return f"{significant(ratio)}{TIMES}"


def decibels(ratio_db: float) -> str:
    """A signal-to-noise ratio.

    >>> decibels(31.25)
    '31.2 dB'
    """
    return f"{MINUS if ratio_db < -0.05 else ''}{abs(ratio_db):.1f} dB"


def _prefix(number: float, scales: tuple[tuple[float, str], ...]) -> tuple[str, float]:
    """The largest unit that leaves at least 1 after rounding to three digits; no prefix below the smallest."""
    for scale, prefix in scales:
        if number >= 0.9995 * scale:
            return prefix, scale
    return "", 1.0

"""What the values of options must be, for argparse."""

from __future__ import annotations

import argparse
import math

LONGEST_S = 259_200.0  # three days
LOWEST_HZ, HIGHEST_HZ = 1.0, 10_000.0


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 was expected, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """A number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 was expected, got {text!r}")
    return number


def duration(text: str) -> float:
    """Seconds, up to three days."""
    seconds = _number(text)
    if not 0 < seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"seconds above 0, up to {LONGEST_S:.0f}, were expected, got {text!r}")
    return seconds


def rate(text: str) -> float:
    """How often a second: from 1 to 10,000."""
    number = _number(text)
    if not LOWEST_HZ <= number <= HIGHEST_HZ:
        raise argparse.ArgumentTypeError(f"a rate from {LOWEST_HZ:g} to {HIGHEST_HZ:g} Hz was expected, got {text!r}")
    return number


def port(text: str) -> int:
    """A port that an unprivileged or privileged user may listen on."""
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"a port from 1 to 65535 was expected, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""What the machine does to keep up: temperatures, clocks, power, and what holds the clocks back.

Nothing here is needed to run an engine, and nothing is guessed: a machine that does not tell is said not to.
"""

from __future__ import annotations

from enginewright_runtime.telemetry.reading import Reading
from enginewright_runtime.telemetry.telemetry import Telemetry

__all__ = ["Reading", "Telemetry"]

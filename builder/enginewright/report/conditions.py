"""What a measurement knows of its host, as facts for people: what the machine is, and how it was doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from enginewright.report.data import Fact
from enginewright.units import duration, file_size, significant
from enginewright_runtime.canonical import Json
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.paired import disturbed_chunks


def fingerprint_facts(fingerprint: Mapping[str, Json]) -> tuple[Fact, ...]:
    """Every property of a host's fingerprint.

    >>> fingerprint_facts({"memory_mib": 24_105, "governor": None})
    (Fact(name='memory', value='23.5 GiB'), Fact(name='governor', value='unknown'))
    """
    facts = []
    for key, value in fingerprint.items():
        if key.endswith("_mib") and isinstance(value, (int, float)):
            facts.append(Fact(_words(key.removesuffix("_mib")), file_size(value * 2**20)))
        else:
            facts.append(Fact(_words(key), _text(value)))
    return tuple(facts)


def condition_facts(measurement: Measurement) -> tuple[Fact, ...]:
    """How the host was doing, over all sessions: the range of what goes up and down, the growth of what only counts."""
    facts = [
        Fact(name, text) for key, name, written in _RANGES if (text := _range(_readings(measurement, key), written))
    ]
    facts += [
        Fact(name, written(growth))
        for key, name, written in _COUNTERS
        if (growth := _growth(measurement, key)) is not None
    ]
    warm_ups = [warm_up for session in measurement.sessions for warm_up in session.warm_up.values()]
    if warm_ups:
        unsettled = sum(not warm_up.settled for warm_up in warm_ups)
        facts.append(Fact("warm-ups that did not settle", f"{unsettled} of {len(warm_ups)}"))
    return (*facts, *_disturbed(measurement))


def _disturbed(measurement: Measurement) -> tuple[Fact, ...]:
    """In how many chunks clocks changed, which are read where the engine runs on a GPU."""
    found = disturbed_chunks(measurement, "engine")
    return (
        ()
        if found is None
        else (Fact("chunks in which clocks changed or were throttled", f"{found[0]} of {found[1]}"),)
    )


def _microseconds(value: float) -> str:
    return duration(value / 1e6)


_RANGES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("load_average", "load average", significant),
    ("frequency_mhz", "frequency, MHz", lambda clock: f"{clock:,.0f}"),
)
_COUNTERS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("thermal_throttles", "thermal throttles", lambda times: f"{times:,.0f}"),
    ("quota_throttled_us", "held back by a quota", _microseconds),
    ("pressure_stalled_us", "waiting for a processor", _microseconds),
    ("steal_ticks", "ticks stolen by the hypervisor", lambda ticks: f"{ticks:,.0f}"),
)


def _readings(measurement: Measurement, key: str) -> list[float]:
    """Every reading of a condition, before and after each session; of a list its first item."""
    conditions = [
        side for session in measurement.sessions for side in (session.conditions_before, session.conditions_after)
    ]
    return [value for side in conditions if (value := _number(side.get(key))) is not None]


def _growth(measurement: Measurement, key: str) -> float | None:
    """How much a counter grew within the sessions; None where it was not read."""
    pairs = [
        (_number(session.conditions_before.get(key)), _number(session.conditions_after.get(key)))
        for session in measurement.sessions
    ]
    grown = [after - before for before, after in pairs if before is not None and after is not None]
    return sum(grown) if grown else None


def _range(readings: Sequence[float], written: Callable[[float], str]) -> str:
    if not readings:
        return ""
    low, high = written(min(readings)), written(max(readings))
    return low if low == high else f"{low} to {high}"


def _number(value: Json) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        value = value[0]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Json) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)

"""What a step has to say of its result, in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from enginewright.units import milliseconds, significant
from enginewright_runtime.canonical import Json

__all__ = ["summarized"]

_SHOWN_ITEMS = 3  # of a list in a step's summary


def summarized(summary: Mapping[str, Json]) -> str:
    """A step's summary in words; entries without a value are left out.

    >>> summarized({"bytes": 94_371_840, "latency_ns": {"float": 512_300.0, "int8": 401_000.0}, "worst": None})
    'bytes 94,371,840, latency (float 0.512 ms, int8 0.401 ms)'
    """
    return ", ".join(_entry(name, value) for name, value in summary.items() if value is not None)


def _entry(name: str, value: Json) -> str:
    if name.endswith("_ns"):
        return f"{name.removesuffix('_ns').replace('_', ' ')} {_figure(value, milliseconds)}"
    return f"{name.replace('_', ' ')} {_figure(value)}"


def _figure(value: Json, written: Callable[[float], str] | None = None) -> str:
    """A figure of a step's summary, or several; of many names the first few. `written` writes its numbers.

    >>> [_figure(value) for value in (94_371_840, 0.35117, 1.9e-6, True, "top1", None)]
    ['94,371,840', '0.351', '1.9e-06', 'yes', 'top1', 'none']
    >>> _figure(["a", "b", "c", "d", "e"]), _figure([])
    ('(a, b, c and 2 more)', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name} {_figure(item, written)}' for name, item in value.items())})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _listed([_figure(item, written) for item in value])
    if isinstance(value, (int, float)) and written is not None:
        return written(value)
    if isinstance(value, float):
        return significant(value) if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _listed(items: Sequence[str]) -> str:
    if not items:
        return "none"
    more = f" and {len(items) - _SHOWN_ITEMS} more" if len(items) > _SHOWN_ITEMS else ""
    return f"({', '.join(items[:_SHOWN_ITEMS])}{more})"

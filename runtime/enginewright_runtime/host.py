"""What this machine is (its fingerprint) and how it is doing (its conditions)."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from enginewright_runtime.canonical import Json, canonical_bytes, sha256_hex
from enginewright_runtime.sysfs import read_text

# The instruction sets that decide which kernels an engine uses: our name -> the kernel's name in /proc/cpuinfo.
_INSTRUCTION_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
}
_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_ROOT = Path("/")


def host(*, root: Path = _ROOT) -> dict[str, Json]:
    """Both parts as one JSON object: `fingerprint` and `conditions`. `root` is where /proc and /sys are looked for."""
    return {"fingerprint": fingerprint(root=root), "conditions": conditions(root=root)}


def fingerprint(*, root: Path = _ROOT) -> dict[str, Json]:
    """What makes a latency comparable with another one: hardware, kernel, governor and library versions.

    Null is unknown. It holds neither the host's name nor its addresses.
    """
    return {
        "machine": machine(),
        "cpu": _cpu_model(root),
        "instruction_sets": list(instruction_sets(root=root)),
        "cores": usable_cores(),
        "memory_mib": _memory_mib(root),
        "governor": read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version for name in _LIBRARIES if (version := _installed_version(name)) is not None},
    }


def fingerprint_id(fingerprint: Mapping[str, Json]) -> str:
    """The sha256 of a fingerprint, as 64 hexadecimal digits: equal exactly where the fingerprints are."""
    return sha256_hex(canonical_bytes(fingerprint))


def conditions(*, root: Path = _ROOT) -> dict[str, Json]:
    """What disturbs a latency right now.

    Null is unknown. The counters only grow, so two readings tell what happened between them.
    """
    return {
        "load_average": _load_average(),
        "frequency_mhz": _frequency_mhz(root),
        "thermal_throttles": _thermal_throttles(root),
        "quota_throttled_us": _keyed_number(root / "sys/fs/cgroup/cpu.stat", r"^throttled_usec (\d+)$"),
        "pressure_stalled_us": _keyed_number(root / "proc/pressure/cpu", r"^some .*\btotal=(\d+)$"),
        "steal_ticks": _keyed_number(root / "proc/stat", r"^cpu +(?:\d+ +){7}(\d+)"),
    }


def machine() -> str:
    """The processor's architecture under one name everywhere: x86_64 or aarch64, or what the system calls it."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


def instruction_sets(*, root: Path = _ROOT) -> tuple[str, ...]:
    """Of the instruction sets that matter to an engine, those that this processor has; none where that is unknown."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", read_text(root / "proc/cpuinfo") or "", flags=re.MULTILINE)
    present = set(line[1].split()) if line else set()
    return tuple(name for name, kernel_name in _INSTRUCTION_SETS.items() if kernel_name in present)


def usable_cores() -> int:
    """How many processors this process may run on."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu_model(root: Path) -> str | None:
    """The processor's name; on ARM, where Linux gives none, its implementer and part numbers or the board's name."""
    text = read_text(root / "proc/cpuinfo") or ""
    if name := re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE):
        return name[1].strip()
    parts = dict(re.findall(r"^CPU (implementer|part)\s*:\s*(\S+)$", text, flags=re.MULTILINE))
    board = (read_text(root / "proc/device-tree/model") or "").strip("\x00")
    named = [board] if board else []
    named += [f"{key} {parts[key]}" for key in ("implementer", "part") if key in parts]
    return ", ".join(named) or platform.processor() or None


def _memory_mib(root: Path) -> int | None:
    kilobytes = _keyed_number(root / "proc/meminfo", r"^MemTotal:\s+(\d+) kB$")
    return None if kilobytes is None else kilobytes // 1024


def _load_average() -> list[Json] | None:
    try:
        return list(os.getloadavg())
    except (AttributeError, OSError):
        return None


def _frequency_mhz(root: Path) -> float | None:
    """The mean clock of the processors now."""
    readings = [read_text(path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [int(reading) / 1000 for reading in readings if reading and reading.isdigit()]
    if not clocks:
        found = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)$", read_text(root / "proc/cpuinfo") or "", flags=re.MULTILINE)
        clocks = [float(clock) for clock in found]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def _thermal_throttles(root: Path) -> int | None:
    """How often any core has slowed down for its heat since the start."""
    counters = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for path in counters if (text := read_text(path)) and text.isdigit()]
    return sum(counts) if counts else None


def _keyed_number(path: Path, pattern: str) -> int | None:
    """The number that `pattern` captures in a file; null where the file or the line is missing."""
    found = re.search(pattern, read_text(path) or "", flags=re.MULTILINE)
    return int(found[1]) if found else None


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

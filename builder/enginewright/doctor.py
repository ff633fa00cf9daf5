"""`enginewright doctor`: what this host can build, run and measure, and what to install for the rest. Looks, and
changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright.errors import UsageError
from enginewright.graph.dialects import onnxruntime_dialect
from enginewright.project import find_project
from enginewright_runtime import host

__all__ = ["Finding", "Health", "doctor_text", "examine_host"]

_ENOUGH_BYTES = 2 * 2**30  # torch's caches and a few builds
_PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "missing" (something cannot be done here) or "warning" (it can, with this in mind); `fix` may be
    empty.
    """

    what: str
    state: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Health:
    findings: tuple[Finding, ...]

    def to_json(self) -> list[Mapping[str, str]]:
        return [
            {"what": item.what, "state": item.state, "found": item.found, "fix": item.fix} for item in self.findings
        ]


def examine_host() -> Health:
    """Look at this host from top to bottom. Takes a second or two where there is a GPU to ask."""
    return Health((*_tools(), *_backends(), _instructions(), _gpu(), *_measuring(), *_project()))


def doctor_text(health: Health) -> str:
    signs = {"ok": "ok     ", "missing": "missing", "warning": "warning"}
    lines = []
    for item in health.findings:
        lines.append(f"{signs[item.state]}  {item.what:<24} {item.found}")
        if item.fix:
            lines.append(f"{'':<34}{item.fix}")
    return "\n".join(lines)


def _tools() -> list[Finding]:
    wanted = {
        "torch": "import, prune, recover and export need it",
        "torch-pruning": "prune needs it",
        "onnx": "every step after export needs it",
        "onnxscript": "export needs it",
        "onnxsim": "simplify needs it",
    }
    return [_distribution(name, use) for name, use in wanted.items()]


def _distribution(name: str, use: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", f"not installed; {use}", f"pip install {name}")


def _backends() -> list[Finding]:
    """Engines: what compiles and runs them."""
    findings = [_distribution("onnxruntime", "it compiles and runs the engines of the target cpu")]
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        names = importlib.metadata.packages_distributions().get("tensorrt_rtx_bindings", [])  # with CUDA's version
        version = ", ".join(importlib.metadata.version(name) for name in names) or "of unknown version"
        findings.append(Finding("TensorRT-RTX", "ok", f"{version}: checks TensorRT graphs without a GPU"))
    else:
        fix = "pip install 'enginewright[tensorrt-rtx]'"
        findings.append(
            Finding("TensorRT-RTX", "missing", "not installed; it checks TensorRT graphs without a GPU", fix)
        )
    return findings


def _instructions() -> Finding:
    sets = host.instruction_sets()
    known = f"{host.machine()}: {', '.join(sets) or 'no instruction sets known'}"
    if onnxruntime_dialect(host.machine(), sets) == "onnxruntime-x86":
        return Finding(
            "processor", "warning", known, "without VNNI int8 products saturate: weights are quantized to 7 bits here"
        )
    return Finding("processor", "ok", known)


def _gpu() -> Finding:
    """Asked in a process of its own: a broken driver must not take this one with it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("NVIDIA GPU", "missing", "none found (no nvidia-smi); nothing here needs one", "")
    query = [command, "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except OSError as error:
        return Finding("NVIDIA GPU", "missing", f"{command} does not run: {error.strerror}", "mend the driver")
    except subprocess.TimeoutExpired:
        return Finding(
            "NVIDIA GPU",
            "warning",
            f"nvidia-smi gave no answer in {_PROBE_SECONDS:.0f} s",
            "restart the driver, or the machine",
        )
    if answer.returncode != 0:
        return Finding(
            "NVIDIA GPU",
            "missing",
            next(
                iter((answer.stdout or answer.stderr).strip().splitlines()),
                f"nvidia-smi ended with {answer.returncode}",
            ),
            "install or mend the driver",
        )
    return Finding("NVIDIA GPU", "ok", "; ".join(answer.stdout.strip().splitlines()))


def _measuring() -> list[Finding]:
    """Whether latencies that are taken now can be trusted."""
    cores = host.usable_cores()
    load = os.getloadavg()[0]
    governor = host.fingerprint()["governor"]
    busy = Finding("load", "ok", f"{load:.2f} on {cores} cores")
    if load > 0.5 * cores:
        busy = Finding(
            "load",
            "warning",
            f"{load:.2f} on {cores} cores",
            "other work disturbs measurements: verdicts may be INCONCLUSIVE",
        )
    if governor in (None, "performance"):
        clocks = Finding("clocks", "ok", f"governor {governor or 'unknown (a virtual machine?)'}")
    else:
        fix = "sudo cpupower frequency-set -g performance, for steadier measurements"
        clocks = Finding("clocks", "warning", f"governor {governor}", fix)
    return [busy, clocks]


def _project() -> list[Finding]:
    try:
        project = find_project(Path.cwd())
    except UsageError as error:
        return [Finding("project", "missing", error.message, error.hint)]
    folder = next(path for path in (project.store, *project.store.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    store = Finding("store", "ok", f"{project.store}, {free / 2**30:.1f} GiB free")
    if not os.access(folder, os.W_OK):
        store = Finding(
            "store", "warning", f"{project.store} cannot be written", "name another folder with ENGINEWRIGHT_STORE"
        )
    elif free < _ENOUGH_BYTES:
        store = Finding(
            "store",
            "warning",
            f"{project.store}, only {free / 2**30:.1f} GiB free",
            "free some space, or enginewright gc",
        )
    recipes = Finding("project", "ok", f"{project.root}: recipes {', '.join(project.recipe_names()) or 'none'}")
    return [recipes, store]

"""What planning must know of this computer: the Q/DQ dialect its backend wants, what an engine made here needs, and
whose measurements compare.
"""

from __future__ import annotations

from enginewright.abilities import ability
from enginewright.errors import StepFailed
from enginewright.graph.dialects import backend_dialect
from enginewright.steps import HostFacts
from enginewright.target import Target
from enginewright_runtime import host
from enginewright_runtime.backends import backend
from enginewright_runtime.errors import BackendMissing
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.tensorrt.library import installed_version

__all__ = ["host_facts", "refuse_another_host"]


def host_facts(target: Target) -> HostFacts:
    """The facts of this computer that enter the keys of the steps that compile and measure for `target`.

    Raises BackendMissing or EngineError where the target is this computer, and its engines cannot be compiled.
    """
    can = ability(target)
    here = target.build == "here"
    requires = backend(target.backend).requires(target.engine_settings()) if here else dict(can.requires or {})
    pending = "" if here or can.runs else can.why
    if target.dla_core is not None:  # which wants a network and scales of its own, and the GPU for what it cannot run
        pending = pending or "an engine for a DLA is built by enginewright-runtime compile"
    return HostFacts(
        dialect=backend_dialect(target.backend, target.machine or host.machine(), host.instruction_sets()),
        requires=requires,
        precision="bfloat16" if "amx_bf16" in host.instruction_sets() else "float32",
        fingerprint=_fingerprint("onnxruntime" if pending else target.backend),
        pending=pending,
        twin_requires=backend("onnxruntime").requires() if pending else {},
        checker=_checker() if pending and target.on_gpu else "",
    )


def _checker() -> str:
    try:
        return installed_version("tensorrt_rtx")
    except BackendMissing:
        return ""


def refuse_another_host(planned: str, backend_name: str) -> None:
    """Raise StepFailed where this is not the host that a build was planned on, by the fingerprint for engines of the
    backend.
    """
    if _fingerprint(backend_name) != planned:
        raise StepFailed(
            "the build was planned on another host, and a measurement taken here would pass for one of that host",
            hint="run the build where it is to be measured",
        )


def _fingerprint(backend_name: str) -> str:
    return host.fingerprint_id(fingerprint_for([backend_name]))

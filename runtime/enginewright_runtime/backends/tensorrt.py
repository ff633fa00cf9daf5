"""Engines of TensorRT, and of TensorRT-RTX, which builds them ahead of time for a GPU that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EngineError
from enginewright_runtime.host import machine
from enginewright_runtime.tensorrt.build import Built, OnPhase, build
from enginewright_runtime.tensorrt.device import Device, NoDevice, probe
from enginewright_runtime.tensorrt.driver import refuse_old_driver
from enginewright_runtime.tensorrt.header import read_header
from enginewright_runtime.tensorrt.identity import why_other_sms
from enginewright_runtime.tensorrt.library import KINDS, installed_version, load
from enginewright_runtime.tensorrt.settings import Settings
from enginewright_runtime.tensorrt.timing_cache import cache_path

if TYPE_CHECKING:
    from enginewright_runtime.tensorrt.engine import TensorRTEngine


class TensorRT:
    """The backends `tensorrt` and `tensorrt_rtx`; see Backend.

    An engine is bound to the exact version, the architecture and the compute capability, and TensorRT's to the model
    of the device too, whose kernels were timed: to its name, and to its number of SMs, because boards of one family
    share a name.
    """

    def __init__(self, name: str, extra: str) -> None:
        self.name = name
        self.extra = extra

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds without the device."""
        return self.name == "tensorrt_rtx"

    def typed_by_the_network(self) -> bool:
        """Whether the installed version goes by the network's types, and not by flags. Raises BackendMissing."""
        return not load(self.name).typed_by_flags

    def requires(self, settings: Mapping[str, Json] | None = None) -> dict[str, str]:
        """What an engine built here needs; raises NoDevice where only the device can tell. See Backend."""
        version = installed_version(self.name)
        wanted = Settings.parse(settings or {}).compute_capability
        if self.ahead_of_time and wanted is not None:
            return {self.name: version, "machine": machine(), "compute_capability": wanted}
        found = self._device()
        needs = {self.name: version, "machine": machine(), "compute_capability": found.compute_capability}
        return needs if self.ahead_of_time else {**needs, "device": found.name, "sm_count": str(found.sm_count)}

    def device(self) -> Device:
        """The GPU of this machine, which its engines run on. Raises NoDevice."""
        return probe()

    def fingerprint(self, requires: Mapping[str, str]) -> str:
        """Such as tensorrt-10.3.0-sm87-aarch64-orin-16sm; without the last part where the needs do not say."""
        capability = requires["compute_capability"].replace(".", "")
        device = re.sub(r"[^a-z0-9]+", "-", requires.get("device", "").lower()).strip("-")
        parts = [self.name.replace("_", "-"), requires[self.name], f"sm{capability}", requires["machine"]]
        parts += [device] if device else []
        return "-".join([*parts, f"{requires['sm_count']}sm"] if "sm_count" in requires else parts)

    def misfit(self, requires: Mapping[str, str]) -> str:
        """Why an engine with these needs does not run here; see Backend. Raises BackendMissing."""
        if unknown := sorted(set(requires) - {self.name, "machine", "compute_capability", "device", "sm_count"}):
            return f"it requires {unknown[0]!r}, which this runtime does not know"
        if requires.get("machine", machine()) != machine():
            return f"it was made for {requires['machine']}, and this machine is {machine()}"
        wanted = requires.get("compute_capability")
        try:
            found = self._device()
        except NoDevice as error:
            return f"it needs an NVIDIA GPU of compute capability {wanted}, and {error.message}"
        if wanted != found.compute_capability:
            return f"it needs compute capability {wanted}, and the {found.name} here has {found.compute_capability}"
        if requires.get("device", found.name) != found.name:
            return f"it was tuned on a {requires['device']}, and this is a {found.name}: compile it here"
        if (built := requires.get("sm_count", str(found.sm_count))) != str(found.sm_count):
            return (
                f"it was built with {built} SMs, and the {found.name} here has {found.sm_count}: "
                f"{why_other_sms(built, found)}: compile it here"
            )
        version, installed = requires.get(self.name), installed_version(self.name)
        if version is not None and version != installed:
            title = KINDS[self.name].title
            return f"it needs {title} {version}, and {installed} is installed: compile it again here"
        return ""

    def compile(self, model: bytes, settings: Mapping[str, Json]) -> bytes:
        """Build an engine; see Backend."""
        return self.build(model, settings).engine

    def build(
        self,
        model: bytes,
        settings: Mapping[str, Json],
        *,
        calibration: bytes | None = None,
        on_phase: OnPhase | None = None,
    ) -> Built:
        """Build an engine, with what the build had to say; the timings of its kernels are kept for the next build."""
        parsed = Settings.parse(settings)
        library = load(self.name)
        fingerprint = self.fingerprint(self.requires(settings))
        # Without the device nothing is timed, and there is nothing to keep.
        timings = None if self.ahead_of_time else cache_path(fingerprint)
        cuda = "" if self.ahead_of_time else self._device().driver_cuda
        return build(
            library, model, parsed, timings=timings, calibration=calibration, on_phase=on_phase, driver_cuda=cuda
        )

    def open(self, engine: bytes, settings: Mapping[str, Json]) -> TensorRTEngine:
        """Load an engine that was verified; see Backend. Whatever does not fit is refused before it is deserialized."""
        parsed = Settings.parse(settings)
        header = read_header(engine)
        kind = KINDS[self.name]
        if header.kind is not kind:
            raise EngineError(f"this is an engine of {header.kind.title}, and {kind.title} was to open it")
        library = load(self.name)
        if not header.made_by(library.version):
            made = ".".join(map(str, header.version))
            raise EngineError(
                f"the engine was built by {kind.title} {made}, and {library.version} is installed here",
                hint="enginewright-runtime compile BUNDLE builds it again from the bundle",
            )
        device = self._device()
        from enginewright_runtime.tensorrt.engine import open_engine

        return open_engine(library, engine, parsed, device)

    def _device(self) -> Device:
        """The GPU here. Raises NoDevice where there is none, or its driver is older than the library wants."""
        found = probe()
        refuse_old_driver(self.name, found)
        return found


BACKEND = TensorRT("tensorrt", "tensorrt")

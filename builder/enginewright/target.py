"""What a valid target is: a device as data, and where targets are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from enginewright.errors import Problem, TargetError, UsageError, did_you_mean
from enginewright.reader import named_as_its_file, parse
from enginewright.schema import RULE, Check, Fault, Json, Rule
from enginewright.source import parse_yaml, read_text, shown

if TYPE_CHECKING:
    from enginewright.project import Project

__all__ = ["Target", "catalogue", "load_target", "load_targets"]

_PACKAGED = Path(__file__).parent / "catalogue"
_REPOSITORY = Path(__file__).parents[2] / "targets"  # where an editable install has the same files


_VERSION = Rule("", pattern=r"\d+(\.\d+)*", words='a version in quotes, such as "10.3"')
_WAYS = {  # where each backend can compile an engine
    "onnxruntime": ("here", "device"),
    "openvino": ("here", "device"),
    "tensorrt": ("device",),
    "tensorrt_rtx": ("ahead",),
}


def _can_be_built(backend: str, build: str) -> Iterator[Fault]:
    if build not in _WAYS[backend]:
        yield Fault(("build",), f"must be {' or '.join(_WAYS[backend])} with the backend {backend}, got {build}")


def _names_its_capability(backend: str, compute_capability: str | None) -> Iterator[Fault]:
    if backend.startswith("tensorrt") and compute_capability is None:
        yield Fault((), "a TensorRT engine runs on one compute capability", missing="compute_capability")


def _knows_its_power_mode(power_modes: tuple[str, ...], power_mode: str | None) -> Iterator[Fault]:
    if power_mode is not None and power_mode not in power_modes:
        yield Fault(
            ("power_mode",), f"must be one of power_modes ({', '.join(power_modes) or 'none'}), got {power_mode}"
        )


def _has_the_accelerator(dla_core: int | None, dla_cores: int) -> Iterator[Fault]:
    if dla_core is not None and dla_core >= dla_cores:
        yield Fault(("dla_core",), f"must be below dla_cores ({dla_cores}), got {dla_core}")


def _names_its_tensorrt(dla_core: int | None, tensorrt: str | None) -> Iterator[Fault]:
    if dla_core is not None and tensorrt is None:
        yield Fault((), "a DLA's calibration cache is written for one TensorRT", missing="tensorrt")


def _version(doc: str) -> Rule:
    return replace(_VERSION, doc=doc)


def _rate(doc: str, unit: str) -> Rule:
    return Rule(doc, above=0, maximum=1e6, unit=unit)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device that engines are made for.

    What a device can do is None where it is not known: then nothing is derived from it. `path` is its file.
    """

    CHECKS: ClassVar[tuple[Check, ...]] = (
        Check(("backend", "build"), _can_be_built),
        Check(("backend", "compute_capability"), _names_its_capability),
        Check(("power_modes", "power_mode"), _knows_its_power_mode),
        Check(("dla_core", "dla_cores"), _has_the_accelerator),
        Check(("dla_core", "tensorrt"), _names_its_tensorrt),
    )

    target: Literal[1] = field(
        metadata={
            RULE: Rule(
                "version of the target language: 1", words="1, the only version of the target language that is read"
            )
        }
    )
    name: str = field(
        metadata={
            RULE: Rule(
                "the name of the file, without .yaml",
                pattern=r"[a-z0-9][a-z0-9-]*",
                words="a name of small letters, digits and '-'",
            )
        }
    )
    summary: str = field(default="", metadata={RULE: Rule("one line for lists and reports")})
    backend: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"] = field(
        metadata={RULE: Rule("what compiles and runs the engine")}
    )
    build: Literal["here", "ahead", "device"] = field(
        metadata={
            RULE: Rule(
                "where the engine is compiled: here is the computer that runs the build; device is the computer that the "
                "engine runs on, which may be this one; ahead is here, for a device that is elsewhere"
            )
        }
    )
    machine: Literal["x86_64", "aarch64"] | None = field(
        default=None, metadata={RULE: Rule("architecture of its processor; without it, any")}
    )
    threads: int = field(
        default=1,
        metadata={RULE: Rule("threads that one inference may use on the processor", minimum=1, unit="threads")},
    )
    channel_multiple: int = field(
        default=8,
        metadata={
            RULE: Rule("multiple of channels that its kernels work in: what prune rounds to", minimum=1, maximum=128)
        },
    )
    compute_capability: str | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "compute capability of its GPU",
                pattern=r"\d+\.\d",
                words='a compute capability in quotes, such as "8.7"',
            )
        },
    )
    sm_count: int | None = field(
        default=None,
        metadata={
            RULE: Rule("streaming multiprocessors of its GPU that its power mode has on", minimum=1, maximum=1000)
        },
    )
    memory_gb: float | None = field(default=None, metadata={RULE: _rate("memory, as its vendor counts it", "GB")})
    bandwidth_gb_s: float | None = field(default=None, metadata={RULE: _rate("memory bandwidth", "GB/s")})
    int8_tops: float | None = field(default=None, metadata={RULE: _rate("dense int8 operations of its GPU", "TOPS")})
    float16_tflops: float | None = field(
        default=None, metadata={RULE: _rate("dense float16 operations of its GPU", "TFLOPS")}
    )
    dla_cores: int = field(
        default=0,
        metadata={RULE: Rule("deep learning accelerators that its TensorRT can use", minimum=0, maximum=8)},
    )
    dla_core: int | None = field(
        default=None,
        metadata={
            RULE: Rule("the accelerator that the engine is for, from 0; without it, the GPU", minimum=0, maximum=7)
        },
    )
    jetpack: str | None = field(default=None, metadata={RULE: _version("version of JetPack")})
    tensorrt: str | None = field(default=None, metadata={RULE: _version("version of TensorRT; without it, any")})
    cuda: str | None = field(default=None, metadata={RULE: _version("version of CUDA")})
    python: str | None = field(default=None, metadata={RULE: _version("version of Python")})
    power_modes: tuple[str, ...] = field(
        default=(), metadata={RULE: Rule("its power modes, by the names that nvpmodel gives them", unique=True)}
    )
    power_mode: str | None = field(
        default=None, metadata={RULE: Rule("the power mode that its rates are of, and that it is measured in")}
    )
    workspace_mib: int | None = field(
        default=None,
        metadata={
            RULE: Rule("memory that TensorRT may use while it builds and runs; without it, all", minimum=1, unit="MiB")
        },
    )
    tactic_shared_memory_kib: int | None = field(
        default=None,
        metadata={RULE: Rule("shared memory that a TensorRT kernel may use; without it, all", minimum=1, unit="KiB")},
    )
    optimization_level: int | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "how long TensorRT looks for fast kernels; without it, as the version does", minimum=0, maximum=5
            )
        },
    )
    precision: Literal["float16", "float32"] = field(
        default="float16",
        metadata={RULE: Rule("what a TensorRT engine computes in where it does not compute in int8")},
    )
    cuda_graph: bool = field(
        default=False,
        metadata={
            RULE: Rule(
                "whether an inference is captured into a CUDA graph, and launched as one: for networks whose kernels are "
                "shorter than the processor takes to enqueue them"
            )
        },
    )
    path: Path = field(default=Path(), compare=False)

    def engine_settings(self) -> dict[str, Json]:
        """What the backend is told when it compiles and opens an engine for this target.

        >>> device = Target(target=1, name="van", backend="tensorrt", build="device", compute_capability="8.7")
        >>> replace(device, workspace_mib=512).engine_settings()
        {'workspace_mib': 512}
        """
        if not self.on_gpu:
            return {"threads": self.threads}
        wanted: dict[str, Json] = {
            "workspace_mib": self.workspace_mib,
            "tactic_shared_memory_kib": self.tactic_shared_memory_kib,
            "optimization_level": self.optimization_level,
            "dla_core": self.dla_core,
            "compute_capability": self.compute_capability if self.build == "ahead" else None,
            "precision": self.precision if self.precision != "float16" else None,
            "cuda_graph": self.cuda_graph or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def needs(self) -> dict[str, str]:
        """What a device must be for this target's engine to be compiled on it, and the mode that it is to be in.

        An engine that is compiled ahead of time is for every card of its compute capability.
        """
        known = {"machine": self.machine, "compute_capability": self.compute_capability}
        if self.build == "device":
            known["power_mode"] = self.power_mode
            if self.on_gpu:
                known["sm_count"] = None if self.sm_count is None else str(self.sm_count)
                known["memory_gb"] = None if self.memory_gb is None else f"{self.memory_gb:g}"
        return {name: value for name, value in known.items() if value is not None}

    @property
    def on_gpu(self) -> bool:
        """Whether its engines are TensorRT's."""
        return self.compute_capability is not None and self.backend.startswith("tensorrt")


def load_target(name: str, catalogue_folders: Sequence[Path]) -> Target:
    """The target called `name`, from the first of the folders that has it.

    Raises UsageError where there is none of that name, TargetError with every problem of its file.
    """
    files = _files(catalogue_folders)
    if name not in files:
        raise UsageError(
            f"there is no target '{name}'. {did_you_mean(name, files, otherwise='The targets are')}",
            hint="`enginewright targets` lists them; a project's own are files in its targets/ folder",
        )
    return _read(files[name])


def load_targets(catalogue_folders: Sequence[Path]) -> tuple[Target, ...]:
    """Every target of the folders, by name; the first folder that has a name wins.

    Raises TargetError with the problems of all files.
    """
    targets: list[Target] = []
    problems: list[Problem] = []
    for _, path in sorted(_files(catalogue_folders).items()):
        try:
            targets.append(_read(path))
        except TargetError as error:
            problems.extend(error.problems)
    if problems:
        raise TargetError(problems)
    return tuple(targets)


def catalogue(project: Project | None) -> tuple[Path, ...]:
    """The folders where targets are looked for: the project's own first, then those that come with enginewright."""
    packaged = _PACKAGED if _PACKAGED.is_dir() else _REPOSITORY
    own = () if project is None or project.targets.resolve() == packaged.resolve() else (project.targets,)
    return (*own, packaged)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def _read(path: Path) -> Target:
    document = parse_yaml(read_text(path, error=TargetError), label=shown(path))
    target = parse(Target, document, error=TargetError, checks=(named_as_its_file(path),))
    return replace(target, path=path.absolute())

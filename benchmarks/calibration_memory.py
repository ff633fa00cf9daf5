"""Memory and time of calibration against the number of samples, beside ONNX Runtime's calibrators.

python benchmarks/calibration_memory.py [--quick] [--threads 1] [--limit-gib 6]

Two U-Nets (Ronneberger et al. 2015, with batch normalisation) are exported to ONNX and calibrated on made-up images: a
large one at 3x256x512, and a small one at 3x64x128 for many samples. Protocol: every run is a fresh process with the same
number of threads, ONNX Runtime reads one sample at a time and we as many as the stage `calibrate`; peak memory is VmHWM of
that process, imports included; time is CPU time from the model file to the ranges, divided by the samples, imports not
included. Ours makes the ranges of all four methods in one run, ONNX Runtime those of one method. Each process may take
--limit-gib of address space: what does not fit is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]


class Case(NamedTuple):
    """A U-Net with `width` channels at the top, and how many samples ours and the peers see."""

    name: str
    width: int
    height: int
    samples: tuple[int, ...]
    peer_samples: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.height, 2 * self.height


FULL = (
    Case("large", 32, 256, (32, 128, 512), (4, 12)),
    Case("small", 8, 64, (32, 128, 512, 2048), (32, 128, 512, 2048)),
)
QUICK = (Case("large", 32, 256, (4, 8), (2, 4)), Case("small", 8, 64, (32, 128), (32, 128)))
OURS = "ours, all 4 methods"
PEERS = ("Entropy", "Percentile", "MinMax")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it works")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gib", type=float, default=6.0)
    parser.add_argument("--run", help=argparse.SUPPRESS)  # what a fresh process is told
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(_run(json.loads(arguments.run))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for case in QUICK if arguments.quick else FULL:
            _compare(case, Path(folder), threads=arguments.threads, limit_gib=arguments.limit_gib)
    return 0


def _compare(case: Case, folder: Path, *, threads: int, limit_gib: float) -> None:
    path = folder / f"{case.name}.onnx"
    # Exporting takes memory and leaves threads behind: in a process of its own.
    made = _child({"do": "export", "path": str(path), "width": case.width, "shape": case.shape}, limit_gib=limit_gib)
    assert made is not None
    shape = "x".join(map(str, case.shape))
    print(f"{case.name} U-Net: {case.width} channels at the top, {shape}, {made['parameters'] / 1e6:.1f} M parameters,")
    print(
        f"{made['activation_mib']:.0f} MiB of float activations a sample; threads {threads}, CPU time, fresh processes"
    )
    print(f"{'':<28}{'samples':>8}{'peak MiB':>10}{'MiB a sample more':>19}{'ms a sample':>13}")
    best: dict[str, float] = {}
    for who in (OURS, *PEERS):
        rows: list[tuple[int, float]] = []
        label = who if who == OURS else f"ONNX Runtime, {who.lower()}"
        for samples in case.samples if who == OURS else case.peer_samples:
            asked = {"do": who, "path": str(path), "shape": case.shape, "samples": samples, "threads": threads}
            found = _child(asked, limit_gib=limit_gib)
            if found is None:
                print(f"{label:<28}{samples:>8}   does not fit in {limit_gib:g} GiB")
                break
            more = f"{(found['peak_mib'] - rows[-1][1]) / (samples - rows[-1][0]):.2f}" if rows else ""
            rows.append((samples, found["peak_mib"]))
            best[who] = found["cpu_s"] * 1e3 / samples
            print(f"{label:<28}{samples:>8}{found['peak_mib']:>10.0f}{more:>19}{best[who]:>13.1f}", flush=True)
        if who == OURS:
            (fewest, first), (most, last) = rows[0], rows[-1]
            print(f"  peak with {most} samples: {last / first:.3f} times that with {fewest}")
    ratios = [f"{best[who] / best[OURS]:.1f} times ours ({who.lower()})" for who in PEERS if who in best]
    print(f"  time a sample of ONNX Runtime {_version('onnxruntime')}: {', '.join(ratios)}\n", flush=True)


def _child(asked: dict[str, Any], *, limit_gib: float) -> dict[str, Any] | None:
    """What a fresh process answers; None where the memory was not enough for it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.get("threads", 1))}
    command = [sys.executable, __file__, "--run", json.dumps({**asked, "limit_bytes": int(limit_gib * 2**30)})]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        wanted = ("MemoryError", "bad_alloc", "Unable to allocate", "Failed to allocate", "cannot allocate")
        if any(word.lower() in done.stderr.lower() for word in wanted):
            return None
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    if asked["do"] == "export":
        return _export(Path(asked["path"]), asked["width"], asked["shape"])
    import resource

    import onnxruntime  # noqa: F401 - its import is not what is timed
    from onnxruntime.quantization import calibrate  # noqa: F401

    import enginewright.datasets
    import enginewright.graph.qdq
    import enginewright.graph.ranges  # noqa: F401

    resource.setrlimit(resource.RLIMIT_AS, (asked["limit_bytes"], asked["limit_bytes"]))
    started = time.process_time()
    if asked["do"] == OURS:
        _ours(asked)
    else:
        _peer(asked)
    cpu_s = time.process_time() - started
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return {"cpu_s": cpu_s, "peak_mib": int(peak[1]) / 1024}


def _images(shape: tuple[int, ...], samples: int) -> Iterator[Image]:
    for index in range(samples):
        yield np.random.default_rng(index).standard_normal((1, *shape), np.float32)


def _ours(asked: dict[str, Any]) -> None:
    import onnx

    from enginewright.datasets import Split
    from enginewright.graph.qdq import tensors_to_calibrate
    from enginewright.graph.ranges import METHODS, observe
    from enginewright.signature import InputSpec, Signature

    model = onnx.load(asked["path"])
    # The batch that the stage would read.
    inputs = {"image": InputSpec(("batch", *asked["shape"]), "float32")}
    size = Split("calibration", [], Signature(inputs, ("classes",))).batch_size(16)
    images = _images(asked["shape"], asked["samples"])
    parts = iter(lambda: list(islice(images, size)), [])
    batches = ({"image": np.concatenate(part)} for part in parts)
    seen = observe(model, tensors_to_calibrate(model), batches, threads=asked["threads"])
    for method in METHODS:
        seen.scales(method)


def _peer(asked: dict[str, Any]) -> None:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = _images(asked["shape"], asked["samples"])

        def get_next(self) -> dict[str, Image] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        """The calibrator makes its session with all the threads of the machine and no way to say how many."""

        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = asked["threads"]

    onnxruntime.SessionOptions = Options
    with tempfile.TemporaryDirectory() as folder:
        method = CalibrationMethod[asked["do"]]
        calibrator = create_calibrator(
            asked["path"], None, str(Path(folder) / "augmented.onnx"), calibrate_method=method
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def _export(path: Path, width: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    import onnx
    import onnxsim
    import torch
    from torch import nn

    class Twice(nn.Sequential):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            for number, channels in enumerate((inputs, outputs)):
                self.add_module(f"conv{number}", nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
                self.add_module(f"norm{number}", nn.BatchNorm2d(outputs))
                self.add_module(f"relu{number}", nn.ReLU())

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = [width * 2**level for level in range(5)]
            pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
            self.down = nn.ModuleList(Twice(a, b) for a, b in zip([3, *channels], channels, strict=False))
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
            self.join = nn.ModuleList(Twice(2 * b, b) for _, b in pairs)
            self.head = nn.Conv2d(width, 4, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            skips: list[torch.Tensor] = []
            for level, down in enumerate(self.down):
                image = down(torch.max_pool2d(image, 2) if level else image)
                skips.append(image)
            image = skips.pop()
            for up, join in zip(self.up, self.join, strict=True):
                image = join(torch.cat([skips.pop(), up(image)], 1))
            return self.head(image)

    torch.manual_seed(0)
    network = UNet().eval()
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),
        input_names=["image"],
        output_names=["classes"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model, _ = onnxsim.simplify(program.model_proto)
    onnx.save(model, path)
    return {
        "parameters": sum(values.numel() for values in network.parameters()),
        "activation_mib": _activation_bytes(model) / 2**20,
    }


def _activation_bytes(model: Any) -> int:
    """Of all tensors that the nodes of the network make from one sample."""
    from enginewright.graph.topology import shapes_at_batch_one

    shapes = shapes_at_batch_one(model)
    return sum(4 * int(np.prod(shapes[name])) for node in model.graph.node for name in node.output if name)


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)


if __name__ == "__main__":
    sys.exit(main())

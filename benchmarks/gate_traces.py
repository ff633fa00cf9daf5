"""Recorded sessions of engines of known work, for replaying gates: `python benchmarks/gate_traces.py NAME [--burn N]`.

Four engines run side by side, as the gate runs two: one, the same under another name, and ones with 5 and 10 % more
layers. A trace is the raw times, int32 in tenths of a microsecond, of shape [sessions, engines, rounds, chunk].
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gate_engines import LAYERS, burning, make_bundle

from enginewright.gate.sides import read_bundle_side
from enginewright_runtime.measure import Measuring
from enginewright_runtime.npz import read_npz, write_npz
from enginewright_runtime.paired import CHUNK, GATE_WARM_UP, ROUNDS

__all__ = ["FOLDER", "WORK", "read_trace"]

FOLDER = Path(__file__).parent / "traces"
WORK = {"one": 0, "same": 0, "five": 2, "ten": 4}  # layers more than LAYERS
_TICK_NS = 100


def read_trace(path: Path) -> npt.NDArray[np.int64]:
    """The times of a trace in nanoseconds, of shape [sessions, engines, rounds, chunk]."""
    return read_npz(path.read_bytes())["times"].astype(np.int64) * _TICK_NS


def record(path: Path, sessions: int, *, burners: int, bound: bool) -> None:
    """Take sessions and add them to the trace at `path`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {
            name: read_bundle_side(make_bundle(folder / f"{name}.ewb", layers=LAYERS + more, name=name), folder)
            for name, more in WORK.items()
        }
        engines = {name: side.engine for name, side in sides.items()}
        stack.enter_context(burning(processes=burners))
        measuring = stack.enter_context(
            Measuring(
                engines,
                sides["one"].inputs,
                rounds=ROUNDS,
                chunk=CHUNK,
                seed=0,
                warm_up=GATE_WARM_UP,
                same_cores=bound,
            )
        )
        for done in range(sessions):
            taken = measuring.take_session()
            settled = all(warm_up.settled for warm_up in taken.warm_up.values())
            seconds = sum(warm_up.elapsed_ns for warm_up in taken.warm_up.values()) / 1e9
            print(f"session {done + 1} of {sessions}: warm-up {seconds:.1f} s{'' if settled else ', not settled'}")
            times = np.array([taken.samples_ns[name] for name in WORK]).reshape(1, len(WORK), ROUNDS, CHUNK)
            times = (times // _TICK_NS).astype(np.int32)
            if path.exists():
                times = np.concatenate([read_npz(path.read_bytes())["times"], times])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(write_npz({"times": times}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--burn", type=int, default=0, help="how many processes burn a core meanwhile")
    parser.add_argument("--unbound", action="store_true", help="let the system place the processes")
    options = parser.parse_args()
    record(FOLDER / f"{options.name}.npz", options.sessions, burners=options.burn, bound=not options.unbound)


if __name__ == "__main__":
    main()

"""Every benchmark in turn: `python -m benchmarks`, or `make bench`. Each prints its protocol beside its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("noop_build.py", "signs_cpu.py", "channel_steps.py", "runtime_overhead.py", "tensorrt_overhead.py")


def main() -> int:
    folder = Path(__file__).parent
    for name in BENCHMARKS:
        print(f"== benchmarks/{name}", flush=True)
        done = subprocess.run([sys.executable, folder / name], check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

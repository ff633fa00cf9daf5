"""How long `enginewright build` takes when nothing is to be done, beside `python -c pass`.

Run it after a build:  python benchmarks/noop_build.py [RECIPE] [--target cpu]
Protocol: both commands in fresh processes, taken in turn, wall clock, warm file caches; the median and the range of 15.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

ROUNDS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="signs")
    parser.add_argument("--target", default="cpu")
    arguments = parser.parse_args()
    build = [sys.executable, "-m", "enginewright", "build", arguments.recipe, "--target", arguments.target, "--json"]
    first = subprocess.run(build, capture_output=True, text=True, check=False)
    if first.returncode not in (0, 1):
        sys.stderr.write(first.stderr)
        return first.returncode
    if any(step["status"] != "reused" for step in json.loads(first.stdout)["steps"]):
        print("the build had something to do; run the benchmark again")
        return 1
    commands = {"enginewright build (no-op)": build, "python -c pass": [sys.executable, "-c", "pass"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        print(f"{name:<28} median {statistics.median(taken):.3f} s, {min(taken):.3f} to {max(taken):.3f} s")
    ratio = statistics.median(ours / theirs for ours, theirs in zip(*seconds.values(), strict=True))
    reused = len(json.loads(first.stdout)["steps"])
    print(f"ratio {ratio:.1f}; wall clock, fresh processes, taken in turn, {ROUNDS} rounds, {reused} steps reused")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The process whose start is timed: ``python -m enginewright_runtime.bench.cold_start_process BUNDLE``.

It does what an application does before its first answer, and writes one JSON object: when each phase ended, by the
clock of time.perf_counter_ns, which all processes of a machine share on Linux.
"""

from __future__ import annotations

import sys
import time

_STARTED_NS = time.perf_counter_ns()


def main() -> None:
    """Start, answer once, and say how long each phase took."""
    import json
    from pathlib import Path

    import numpy as np

    from enginewright_runtime.bundle import read_bundle
    from enginewright_runtime.golden import one_sample, read_golden
    from enginewright_runtime.session import open_bundle

    imported = time.perf_counter_ns()
    bundle = read_bundle(Path(sys.argv[1]))
    verified = time.perf_counter_ns()
    golden = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    inputs = {name: np.ascontiguousarray(array) for name, array in golden.items()}
    prepared = time.perf_counter_ns()
    session = open_bundle(bundle)
    loaded = time.perf_counter_ns()
    session.run(inputs)
    answered = time.perf_counter_ns()
    session.run(inputs)
    again = time.perf_counter_ns()
    session.close()
    closed = time.perf_counter_ns()
    open_bundle(bundle).close()
    reopened = time.perf_counter_ns()
    phases = {
        "started_ns": _STARTED_NS,
        "import_ns": imported - _STARTED_NS,
        "verify_ns": verified - imported,
        "load_ns": loaded - prepared,
        "first_run_ns": answered - loaded,
        "second_run_ns": again - answered,
        "second_load_ns": reopened - closed,
    }
    sys.stdout.write(json.dumps(phases) + "\n")


if __name__ == "__main__":
    main()

"""The command line: what it prints, what it returns, and that every mistake has its words and its code."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.tiny_bundle import WEIGHTS, make_bundle, tiny_golden, tiny_manifest

from enginewright_runtime import cli, npz
from enginewright_runtime.bench import latency
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.measure import Measurement, WarmUpRule, measure

QUICK = WarmUpRule(least_ns=0, least_count=10, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as the one JSON object that it must be."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Ran]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process, and measures with little warming up."""

    def run(*arguments: str | Path) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    monkeypatch.setattr(latency, "measure", lambda *args, **rest: measure(*args, **rest, rounds=35, warm_up=QUICK))
    return run


def test_verify_says_what_was_verified(command: Command, tiny_path: Path) -> None:
    digest = read_bundle(tiny_path).sha256
    ran = command("verify", tiny_path)
    assert ran == Ran(0, f"{tiny_path}: verified, 3 files, {tiny_path.stat().st_size} bytes, sha256 {digest}\n", "")
    assert command("verify", tiny_path, "--json").json["verified"] is True


def test_verify_refuses_an_altered_bundle(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered.ewb"
    altered.write_bytes(tiny_path.read_bytes().replace(b"tiny", b"tinY", 1))
    ran = command("verify", altered)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"enginewright-runtime: {altered}: its bytes do not match its digest: it was altered\n"
        "  fix: copy or build it again\n"
    )
    assert command("verify", altered, "--json").json == {
        "error": f"{altered}: its bytes do not match its digest: it was altered",
        "hint": "copy or build it again",
    }


def test_info_shows_what_a_bundle_holds_and_what_runs_here(command: Command, tiny_path: Path) -> None:
    bundle = read_bundle(tiny_path)
    [entry] = bundle.manifest.engines
    ran = command("info", tiny_path)
    assert ran.code == 0
    assert ran.out.splitlines()[:9] == [
        "bundle    tiny for cpu, format 1",
        f"sha256    {bundle.sha256}",
        "input     x: float32 [batch, 4]",
        "output    y: float32 [batch, 3]",
        "budget    latency_p99_ms 1000",
        "budget    size_mib 1",
        "accuracy  engine 0.94",
        "accuracy  reference 0.95",
        f"engine    {entry.fingerprint}: runs here",
    ]
    found = command("info", tiny_path, "--json").json
    assert found["manifest"] == json.loads(bundle.manifest.to_bytes())
    assert found["misfits"] == {entry.fingerprint: ""}


def test_info_works_where_no_engine_runs(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "pending.ewb"
    write_bundle(path, tiny_manifest(), {"model.onnx": b"a model"})
    ran = command("info", path)
    assert ran.code == 0
    assert "engine    none" in ran.out


def test_run_compares_the_golden_outputs(command: Command, tiny_path: Path) -> None:
    ran = command("run", tiny_path)
    assert ran.code == 0
    assert "  y agrees with the golden output: off by 0 at most, 0.0001 allowed" in ran.out
    found = command("run", tiny_path, "--json").json
    assert found["agrees"] is True
    assert found["outputs"] == [
        {
            "name": "y",
            "shape": [2, 3],
            "dtype": "float32",
            "agrees": True,
            "largest_difference": 0.0,
            "tolerance": pytest.approx(1e-4),
        }
    ]


@pytest.mark.parametrize("off_by", [0.5, float("nan")])
def test_run_fails_where_the_golden_outputs_differ(command: Command, tmp_path: Path, off_by: float) -> None:
    path = make_bundle(tmp_path / "wrong.ewb", golden=tiny_golden(off_by=off_by))
    ran = command("run", path)
    assert ran.code == 1
    assert "  y DIFFERS from the golden output: off by " in ran.out
    found = command("run", path, "--json")
    assert found.code == 1
    assert found.json["agrees"] is False


def test_run_takes_inputs_and_writes_outputs(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    x = np.full((5, 4), 2, np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    ran = command("run", tiny_path, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert ran.code == 0
    assert "  y: float32 [5, 3], from 36 to 52" in ran.out
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], x @ WEIGHTS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros(4, np.float32)}, "the inputs must be 'x', got 'image'"),
        ({"x": np.zeros((1, 4))}, "input 'x' must be float32 of shape [batch, 4], got dtype float64"),
        ({"x": np.zeros((1, 4), object)}, "x.npz: Object arrays cannot be loaded when allow_pickle=False"),
        (None, "x.npz: not a file of numpy arrays: File is not a zip file"),
        ({}, "x.npz: cannot be read: No such file or directory"),
    ],
)
def test_run_refuses_inputs_that_do_not_fit(
    command: Command, tiny_path: Path, tmp_path: Path, arrays: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "x.npz"
    if arrays is None:
        path.write_bytes(b"not a zip")
    elif arrays:
        np.savez(path, **arrays)
    ran = command("run", tiny_path, "--input", path)
    assert ran.code == 2
    assert message in ran.err


def test_an_output_that_cannot_be_written_is_said(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    ran = command("run", tiny_path, "--output", tmp_path / "no" / "y.npz")
    assert ran.code == 2
    assert ran.err == (
        f"enginewright-runtime: {tmp_path / 'no' / 'y.npz'}: cannot be written: No such file or directory\n"
    )


def test_run_in_batches_gives_every_sample_once_and_in_order(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    (tmp_path / "x.npz").write_bytes(npz.write_npz({"x": x}))
    ran = command("run", tiny_path, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz", "--batch", "4")
    assert ran.code == ExitCode.OK, ran.err
    [y] = npz.read_npz((tmp_path / "y.npz").read_bytes()).values()
    np.testing.assert_allclose(y, np.maximum(x @ WEIGHTS, 0), rtol=1e-5)


def test_run_in_batches_refuses_what_has_no_samples(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz.write_npz({"x": np.zeros((0, 4), np.float32)}))
    ran = command("run", tiny_path, "--input", tmp_path / "x.npz", "--batch", "4")
    assert ran.code == ExitCode.USAGE
    assert "the inputs must have the same number of samples, one or more, got [0]" in ran.err


def test_a_bundle_without_golden_inputs_cannot_be_run_on_them(
    command: Command, tiny_path: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(tiny_path)
    path = tmp_path / "plain.ewb"
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != "golden.npz"}
    write_bundle(path, bundle.manifest, files)
    assert command("run", path).err.endswith("plain.ewb: there is no golden.npz in this bundle\n")


def bundle_with_golden(path: Path, source: Path, data: bytes) -> Path:
    """The bundle `source` with another golden.npz."""
    bundle = read_bundle(source)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(path, bundle.manifest, {**files, "golden.npz": data})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {}}, "golden.npz: it has the inputs [], and the manifest declares ['x']"),
        ({"outputs": {}}, "golden.npz: it has the outputs [], and the manifest declares ['y']"),
        ({"tolerances": {}}, "golden.npz: there is no array 'tolerance.y'"),
        ({"tolerances": {"y": np.zeros((5, 5))}}, "golden.npz: 'tolerance.y' must hold numbers from 0"),
        ({"tolerances": {"y": np.array(-1.0)}}, "golden.npz: 'tolerance.y' must hold numbers from 0"),
    ],
)
def test_golden_arrays_that_do_not_fit_the_manifest_are_refused(
    command: Command, tiny_path: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    golden = replace(tiny_golden(), **change)
    ran = command("run", bundle_with_golden(tmp_path / "odd.ewb", tiny_path, golden.to_bytes()))
    assert ran.code == 2
    assert message in ran.err


def test_a_golden_file_that_would_fill_the_memory_is_refused(
    command: Command, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "LARGEST_BYTES", 1 << 20)
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros(1 << 20, np.float32))
    assert len(stream.getvalue()) < 10_000
    ran = command("run", bundle_with_golden(tmp_path / "bomb.ewb", tiny_path, stream.getvalue()))
    assert ran.code == 2
    assert "golden.npz: its arrays take 4194432 bytes, and 1048576 is the most that is read" in ran.err


def test_bench_measures_and_judges(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    ran = command("bench", tiny_path, "--json", "--sessions", "2", "--output", tmp_path / "m.json")
    assert ran.err.splitlines() == ["session 0 of 2", "session 1 of 2", "session 2 of 2"]
    assert ran.code == 0
    found = ran.json
    assert found["verdict"] == "PASS"
    assert [finding["name"] for finding in found["findings"]] == ["latency_p99_ms", "size_mib"]
    assert found["samples"] == 350
    assert 0 < found["latency_ns"]["p50"] <= found["latency_ns"]["p99"]
    assert found["latency_ns"]["p99.9"] is None
    kept = Measurement.from_bytes((tmp_path / "m.json").read_bytes())
    assert sum(map(len, kept.sessions_ns("engine"))) == 350
    assert found["protocol"] == json.loads(json.dumps(kept.protocol.to_json()))


def test_bench_prints_only_percentiles_that_the_samples_carry(command: Command, tiny_path: Path) -> None:
    ran = command("bench", tiny_path, "--sessions", "2")
    assert "350 inferences in 2 fresh processes" in ran.out
    assert "  p99   " in ran.out
    assert "  p99.9 needs 2995 samples or more, and there are 350" in ran.out
    assert "threads 1, caches warm, wall clock" in ran.out
    assert ran.out.endswith("verdict: PASS\n")


def test_bench_with_evicted_caches_gives_figures_and_no_verdict(command: Command, tmp_path: Path) -> None:
    missed = replace(tiny_manifest(), budget={"latency_p99_ms": 1e-6})
    path = make_bundle(tmp_path / "missed.ewb", manifest=missed)
    ran = command("bench", path, "--sessions", "1", "--caches", "evicted")
    assert ran.code == 0
    assert re.search(r"threads 1, caches evicted by \d+ MiB before each inference, wall clock", ran.out)
    assert ran.out.endswith("no verdict: budgets are judged with warm caches\n")
    found = command("bench", path, "--sessions", "1", "--caches", "evicted", "--json").json
    assert (found["verdict"], found["findings"], found["protocol"]["caches"]) == (None, [], "evicted")
    assert found["latency_ns"]["p50"] > 0


@pytest.mark.parametrize(
    ("budget", "code", "verdict"),
    [
        ({"latency_p99_ms": 1e-6}, 1, "FAIL"),
        ({"accuracy_drop": 0.001}, 1, "FAIL"),
        ({"accuracy_drop": 0.02}, 0, "PASS"),
        ({"memory_mib": 1}, 1, "FAIL"),
        ({"energy_mj": 1}, 4, "INCONCLUSIVE"),
        ({}, 0, "PASS, for the bundle demands nothing"),
    ],
)
def test_bench_ends_with_the_verdict_s_code(
    command: Command, tmp_path: Path, budget: dict[str, float], code: int, verdict: str
) -> None:
    path = make_bundle(tmp_path / "budget.ewb", manifest=replace(tiny_manifest(), budget=budget))
    ran = command("bench", path, "--sessions", "2")
    assert ran.out.endswith(f"verdict: {verdict}\n")
    assert ran.code == code


def test_one_session_is_inconclusive(command: Command, tiny_path: Path) -> None:
    ran = command("bench", tiny_path, "--sessions", "1")
    assert ran.code == 4
    assert "INCONCLUSIVE latency_p99_ms cannot be judged: p99 needs 299 samples or more, and there are 175" in ran.out


def test_an_unfit_host_is_inconclusive(command: Command, tiny_path: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_path)
    [entry] = bundle.manifest.engines
    foreign = replace(entry, requires={**entry.requires, "machine": "sparc"})
    path = tmp_path / "foreign.ewb"
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(path, replace(bundle.manifest, engines=(foreign,)), files)
    for name in ("run", "bench"):
        ran = command(name, path)
        assert ran.code == 4
        assert "no engine of this bundle runs on this machine" in ran.err
        assert "it was made for sparc" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["verify"], "the following arguments are required: BUNDLE"),
        (["verfy", "a.ewb"], "invalid choice: 'verfy'"),
        (["bench", "a.ewb", "--caches", "cold"], "argument --caches: invalid choice: 'cold'"),
        (["bench", "a.ewb", "--sessions", "0"], "a whole number from 1 was expected, got '0'"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_an_unexpected_error_is_our_bug_and_says_so(
    command: Command, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, **options: object) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr(cli, "read_bundle", broken)
    ran = command("verify", tiny_path)
    assert ran.code == 3
    assert "Traceback" in ran.err
    assert "RuntimeError: never thought of" in ran.err
    assert "this is a bug in enginewright-runtime 0.1.0; please report it" in ran.err


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "runtime")}
PROGRAM = [sys.executable, "-c", "import sys; from enginewright_runtime.cli import main; sys.exit(main())"]


def test_ctrl_c_ends_with_130_and_leaves_no_worker_and_no_file(tiny_path: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "bench", str(tiny_path), "--sessions", "50", "--output", str(tmp_path / "m.json")],
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "session 0 of 50\n"
    assert process.stderr.readline() == "session 1 of 50\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("enginewright-runtime: interrupted\n")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error(tiny_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "info", str(tiny_path)], env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")

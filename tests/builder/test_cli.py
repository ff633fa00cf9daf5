"""The command line: results on standard output, the rest on standard error, and an exit code that says what happened."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.tiny_project import Finished, TinyProject

from enginewright import __version__
from enginewright.build import BuildResult, StepResult
from enginewright.cli import main
from enginewright.errors import DataError, RecipeError, StepCrashed, StepFailed, UserCodeError
from enginewright.record import Ingredients, Record
from enginewright.stages import STAGES
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.exit_codes import ExitCode

Run = Callable[..., Finished]
STEP = StepResult("pack", "built", Record("pack", Ingredients("pack", 1, {}), {}, 1.0))


@pytest.fixture
def run(tiny: TinyProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in the small project, in this process; what an interrupted command does to Ctrl-C is undone."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tiny.root)
    monkeypatch.delenv("ENGINEWRIGHT_STORE", raising=False)

    def in_process(*arguments: str) -> Finished:
        code = main(arguments)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    yield in_process
    signal.signal(signal.SIGINT, on_interrupt)


def built_with(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    """In place of a build: its result, or the error that it ends with. Returns the jobs that were asked for."""
    jobs: list[Any] = []

    def build(job: Any, *, watch: Any) -> BuildResult:
        jobs.append(job)
        if isinstance(answer, BaseException):
            raise answer
        watch.begins("pack", 1, 1, ("it was never built",))
        return answer

    monkeypatch.setattr("enginewright.build.build", build)
    return jobs


def result(verdict: str) -> BuildResult:
    both = {"reference": 2.0, "engine": 1.0}
    content = {
        "verdict": verdict,
        "findings": [{"verdict": verdict, "sentence": "size_mib is 1"}],
        "accuracy": {"metric": "top1", **both},
        "latency_ns": {side: {"p50": 1.0, "p99": None} for side in both},
        "latency_evicted_ns": {side: {"p50": 1.0} for side in both},
        "times_faster": {"warm": 1.0, "evicted": 1.0},
        "size_bytes": both,
        "macs": both,
        "precision": None,
        "pending": None,
    }
    return BuildResult((STEP,), content, {"bundle": Path("dist/t.ewb"), "report_html": Path("dist/t.html")})


@pytest.mark.parametrize(
    ("verdict", "options", "code"),
    [
        ("PASS", (), 0),
        ("PASS", ("--strict",), 0),
        ("FAIL", (), 1),
        ("FAIL", ("--strict",), 1),
        ("INCONCLUSIVE", (), 0),
        ("INCONCLUSIVE", ("--strict",), 4),
        ("INCONCLUSIVE", ("--strict", "--json"), 4),
    ],
)
def test_the_verdict_decides_the_exit_code_of_a_build(
    verdict: str, options: tuple[str, ...], code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with(monkeypatch, result(verdict))
    finished = run("build", "tiny", "--target", "cpu", *options)
    assert finished.code == code
    assert verdict in finished.out


def test_json_is_one_object_on_standard_output_and_progress_goes_to_standard_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with(monkeypatch, result("PASS"))
    finished = run("build", "tiny", "--target", "cpu", "--json")
    assert {"bundle", "verdict", "steps", "accuracy", "latency_ns", "size_bytes", "macs"} <= set(finished.json)
    assert finished.out.count("\n") == 1
    assert finished.err == "[1/1] pack: it was never built\n"


TRACEBACK = 'Traceback of the recipe\'s code (most recent call last):\n  File "data.py", line 3, in load\nOSError: no\n'
BUG = f"enginewright {__version__}: this is a bug of ours; please report it with the lines above\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            DataError("the split 'test' is empty", hint="give samples"),
            2,
            "error: the split 'test' is empty\n  fix: give samples\n",
        ),
        (UserCodeError("data:X failed", traceback=TRACEBACK), 2, f"{TRACEBACK}error: data:X failed\n"),
        (StepFailed("its process was killed by signal 9"), 2, "error: its process was killed by signal 9\n"),
        (MeasurementError("the worker died"), 4, "error: the worker died\n"),
        (StepCrashed("KeyError: 'x'", traceback="Traceback ...\n"), 3, f"Traceback ...\nerror: KeyError: 'x'\n{BUG}"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: finished steps are kept, the next build goes on from there\n",
        ),
    ],
)
def test_every_end_of_a_build_has_its_exit_code_and_its_words(
    error: BaseException, code: int, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with(monkeypatch, error)
    finished = run("build", "tiny", "--target", "cpu")
    assert (finished.code, finished.out, finished.err) == (code, "", said)


def test_what_nobody_foresaw_is_3_with_the_traceback_and_says_whose_fault_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with(monkeypatch, ZeroDivisionError("division by zero"))
    finished = run("build", "tiny", "--target", "cpu")
    assert finished.code == 3
    assert finished.err.startswith("Traceback (most recent call last):\n")
    assert finished.err.endswith(f"ZeroDivisionError: division by zero\n{BUG}")


def test_the_live_display_is_closed_however_the_build_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(
        "enginewright.progress.watch", lambda stream: SimpleNamespace(close=lambda: closed.append(True))
    )
    built_with(monkeypatch, DataError("no"))
    run("build", "tiny", "--target", "cpu")
    assert closed == [True]


def test_settings_reach_the_recipe_as_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = built_with(monkeypatch, result("PASS"))
    assert run("build", "tiny", "--target", "cpu", "--set", "macs=0.25", "--set", "width=8").code == 0
    assert jobs[0].recipe.compress[0].macs == 0.25
    assert jobs[0].recipe.model.arguments == {"width": 8}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "tiny", "--target", "cpu", "--set", "macs"), "macs"),
        (("plan", "tiny", "--target", "cpu", "--set", "macz=0.3"), "macz"),
        (("plan", "tinny", "--target", "cpu"), "Did you mean 'tiny'?"),
        (("plan", "tiny", "--target", "gpu"), "there is no target 'gpu'"),
        (("why", "tiny", "prun", "--target", "cpu"), "the plan has no step 'prun'. Did you mean 'prune'?"),
    ],
)
def test_usage_that_is_wrong_is_2_and_says_what_is_known(arguments: tuple[str, ...], words: str, run: Run) -> None:
    finished = run(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("error: ")
    assert words in finished.err


@pytest.mark.parametrize(
    "arguments", [(), ("bild",), ("build", "tiny"), ("build", "--target", "cpu"), ("schema", "plan"), ("gc", "--all")]
)
def test_a_command_line_that_does_not_parse_is_2(
    arguments: tuple[str, ...], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("usage: enginewright")


def test_the_version_is_that_of_the_package(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"enginewright {__version__}\n"


def test_a_recipe_with_faults_shows_all_of_them_with_their_lines(run: Run, tiny: TinyProject) -> None:
    tiny.edit("tiny.yaml", "epochs: 1", "epochs: some")
    tiny.edit("tiny.yaml", "metric: top1", "metric: top2")
    finished = run("plan", "tiny", "--target", "cpu")
    assert finished.code == RecipeError.exit_code == 2
    assert len(re.findall(r"recipes/tiny\.yaml:\d+: ", finished.err)) == 2


def test_a_plan_of_a_new_project_lists_every_step_and_changes_nothing(run: Run, tiny: TinyProject) -> None:
    steps = run("plan", "tiny", "--target", "cpu", "--json").json["steps"]
    of_the_toolbox = {"import_onnx", "prune_blocks", "factorize", "sparsify", "recalibrate", "student", "equalize"}
    elsewhere = {"half", "check", "pack_pending"}  # of engines that run on another device
    assert {step["stage"] for step in steps} == set(STAGES) - of_the_toolbox - elsewhere
    assert [step["status"] for step in steps] == ["stale"] + ["waits"] * (len(steps) - 1)
    assert steps[0]["reasons"] == ["it was never built"]
    assert len(run("plan", "tiny", "--target", "cpu").out.splitlines()) == len(steps)
    assert not (tiny.root / ".enginewright").exists()


def test_why_speaks_of_one_step_where_one_is_named(run: Run) -> None:
    assert run("why", "tiny", "import", "--target", "cpu").out == "import:\n  it was never built\n"
    assert len(run("why", "tiny", "--target", "cpu", "--json").json["steps"]) > 10


def test_a_recipe_is_named_by_its_file_too(run: Run) -> None:
    assert run("plan", "recipes/tiny.yaml", "--target", "cpu").out == run("plan", "tiny", "--target", "cpu").out


def test_gc_of_an_empty_store_removes_nothing(run: Run) -> None:
    assert run("gc").out == "removed 0 step records and 0 artifacts, 0.0 MiB; kept: nothing\n"
    assert run("gc", "--json").json == {"records": 0, "objects": 0, "freed_bytes": 0, "kept": []}


@pytest.mark.parametrize("kind", ["recipe", "target"])
def test_the_schema_that_is_printed_is_a_json_schema(kind: str, run: Run) -> None:
    schema = run("schema", kind).json
    Draft202012Validator.check_schema(schema)
    assert kind in schema["properties"]


def test_targets_are_listed_inside_a_project_and_outside(
    run: Run, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = run("targets", "--json").json
    assert {"name", "summary", "backend", "build", "builds", "runs", "why"} == set(inside[0])
    assert "cpu" in [item["name"] for item in inside]
    monkeypatch.chdir(tmp_path_factory.mktemp("outside"))
    assert run("targets", "--json").json == inside
    assert "\ncpu           onnxruntime   the processor" in run("targets").out


def test_init_says_what_it_wrote_and_what_to_do_next(run: Run, tmp_path: Path) -> None:
    finished = run("init", "new")
    written = [line.removeprefix("wrote ") for line in finished.out.splitlines() if line.startswith("wrote ")]
    assert "recipes/starter.yaml" in finished.out
    assert all(Path(file).is_file() for file in written)
    assert finished.out.splitlines()[-1] == "now: cd new && enginewright build starter --target cpu"


def test_doctor_prints_every_finding_for_people_and_for_machines(run: Run) -> None:
    content, lines = run("doctor", "--json").json, run("doctor").out.splitlines()
    for item in content:
        assert any(line.split(maxsplit=1)[1].startswith(item["what"]) for line in lines), item


def test_nothing_is_printed_on_standard_output_but_the_result(run: Run) -> None:
    for arguments in (
        ("plan", "tiny", "--target", "cpu", "--json"),
        ("gc", "--json"),
        ("targets", "--json"),
        ("doctor", "--json"),
    ):
        json.loads(run(*arguments).out)

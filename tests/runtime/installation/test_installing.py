"""What installing and rolling back do, and what they refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.installation.bundles import alter, everything, fails, foreign, installed, numbered, passes
from tests.runtime.tiny_bundle import WEIGHTS, make_bundle, tiny_golden, tiny_manifest

import enginewright_runtime
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.errors import (
    BundleError,
    EnginewrightError,
    InstallationBusy,
    InstallationError,
    NoEngineFits,
    SelfTestFailed,
)
from enginewright_runtime.installation import Root, install, installing, read_installed, rehearsal, rollback
from enginewright_runtime.installation import root as root_module
from enginewright_runtime.measure import WarmUpRule, measure

Bundles = dict[int, Path]
QUICK = WarmUpRule(least_ns=0, least_count=10, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)


@pytest.mark.usefixtures("quick")
def test_what_was_installed_is_opened_and_runs(bundles: Bundles, root: Path) -> None:
    steps: list[str] = []
    done = install(bundles[1], root, on_step=steps.append)
    assert (done.current, done.previous, done.changed) == (installed(bundles[1]), None, True)
    assert tuple(steps) == installing.STEPS
    with enginewright_runtime.open_installed(root) as session:
        outputs = session.run({"x": np.ones((1, 4), np.float32)})
    np.testing.assert_allclose(outputs["y"], WEIGHTS.sum(axis=0, keepdims=True))


@pytest.mark.usefixtures("quick")
def test_the_bundle_before_is_kept_and_no_older_one(bundles: Bundles, root: Path) -> None:
    for sequence in (1, 2, 3):
        install(bundles[sequence], root)
    state = Root(root).read()
    assert (state.current, state.previous) == (installed(bundles[3]), installed(bundles[2]))
    assert sorted(path.read_bytes() for path in (root / "slots").iterdir()) == sorted(
        bundles[sequence].read_bytes() for sequence in (2, 3)
    )


@pytest.mark.usefixtures("quick")
def test_installing_what_is_current_changes_nothing(bundles: Bundles, root: Path) -> None:
    install(bundles[1], root)
    before = everything(root)
    done = install(bundles[1], root)
    assert (done.current, done.changed) == (installed(bundles[1]), False)
    assert everything(root) == before


@pytest.mark.usefixtures("quick")
def test_installing_mends_a_current_bundle_that_was_altered(bundles: Bundles, root: Path) -> None:
    install(bundles[1], root)
    install(bundles[2], root)
    slot = Root(root).slot(installed(bundles[2]))
    alter(slot)
    with pytest.raises(BundleError, match="it was altered"):
        enginewright_runtime.open_installed(root)
    done = install(bundles[2], root)
    assert (done.previous, done.changed) == (installed(bundles[1]), True)
    assert read_installed(root).sha256 == installed(bundles[2]).sha256


def test_a_bundle_that_fails_its_self_test_is_remembered_and_leaves_the_current_one(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "rehearse", passes)
    install(bundles[1], root)
    monkeypatch.setattr(installing, "rehearse", fails)
    with pytest.raises(
        SelfTestFailed, match=r"its self-test failed, and it was not installed: it is too slow"
    ) as caught:
        install(bundles[2], root)
    assert caught.value.exit_code == 1
    assert read_installed(root).sha256 == installed(bundles[1]).sha256
    assert [path.name for path in (root / "slots").iterdir()] == [f"{installed(bundles[1]).sha256}.ewb"]
    monkeypatch.setattr(installing, "rehearse", passes)
    with pytest.raises(InstallationError, match="it was refused before: its self-test failed: it is too slow"):
        install(bundles[2], root)
    install(bundles[3], root)
    assert install(bundles[2], root, allow_refused=True, allow_older=True).current == installed(bundles[2])
    assert Root(root).read().refused == ()


@pytest.mark.usefixtures("quick")
def test_an_older_bundle_is_refused_unless_told(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    install(bundles[2], root)
    with pytest.raises(InstallationError, match=r"it is sequence 1, older than sequence 2, which is current"):
        install(bundles[1], root)
    with pytest.raises(InstallationError, match=r"it is unnumbered, older than sequence 2"):
        install(numbered(tmp_path, 0), root)
    assert install(bundles[1], root, allow_older=True).current.sequence == 1


@pytest.mark.usefixtures("quick")
def test_a_number_that_stays_the_same_is_no_older_one(root: Path, tmp_path: Path) -> None:
    install(numbered(tmp_path, 7), root)
    again = numbered(tmp_path, 7, recipe="another")
    assert install(again, root).current == installed(again)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", [{"name": "other"}, {"target": "orin"}])
def test_another_network_or_target_needs_a_root_of_its_own(
    bundles: Bundles, root: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    install(bundles[1], root)
    with pytest.raises(InstallationError, match=r"cannot follow tiny for cpu"):
        install(numbered(tmp_path, 9, **change), root)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("requires", "message"),
    [
        ({"machine": "sparc"}, "it was made for sparc"),
        ({"onnxruntime": "0.1"}, "it needs onnxruntime 0.1"),
        ({"instructions": "neon"}, "it needs the instruction sets neon"),
    ],
)
def test_a_bundle_for_another_device_is_not_even_stored(
    bundles: Bundles, root: Path, tmp_path: Path, requires: dict[str, str], message: str
) -> None:
    install(bundles[1], root)
    before = everything(root)
    with pytest.raises(NoEngineFits, match=message):
        install(foreign(tmp_path / "foreign.ewb", bundles[2], **requires), root)
    assert everything(root) == before


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_cannot_be_tested_is_refused(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundles[1])
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != "golden.npz"}
    write_bundle(tmp_path / "plain.ewb", bundle.manifest, files)
    with pytest.raises(BundleError, match=r"there is no golden.npz"):
        install(tmp_path / "plain.ewb", root)


@pytest.mark.usefixtures("quick")
def test_an_altered_bundle_is_refused_before_the_root_is_there(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered.ewb"
    altered.write_bytes(bundles[1].read_bytes())
    alter(altered)
    with pytest.raises(BundleError, match="it was altered"):
        install(altered, root)
    assert not root.exists()


@pytest.mark.usefixtures("quick")
def test_a_second_installer_is_turned_away_while_the_first_is_at_it(bundles: Bundles, root: Path) -> None:
    turned_away: list[EnginewrightError] = []

    def interfere(step: str) -> None:
        if step == "self-test":
            for act in (lambda: install(bundles[3], root), lambda: rollback(root)):
                with pytest.raises(InstallationBusy, match="another process is installing here") as caught:
                    act()
                turned_away.append(caught.value)

    install(bundles[1], root)
    assert install(bundles[2], root, on_step=interfere).current == installed(bundles[2])
    assert [error.exit_code for error in turned_away] == [4, 4]
    assert install(bundles[3], root).previous == installed(bundles[2])


@pytest.mark.usefixtures("quick")
def test_too_little_space_is_said_before_anything_is_written(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bundles[1], root)
    before = everything(root)
    monkeypatch.setattr(Root, "free_bytes", lambda self: 1_000)
    with pytest.raises(InstallationError, match=r"1000 bytes are free there, and installing needs \d+"):
        install(bundles[2], root)
    assert everything(root) == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("full_at", ["the slot", "installed.json"])
def test_a_disk_that_fills_up_meanwhile_leaves_the_current_bundle(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    install(bundles[1], root)
    before = everything(root)
    write = root_module.write_file

    def full(path: Path, data: bytes) -> None:
        if (path.name == "installed.json") == (full_at == "installed.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(root_module, "write_file", full)
    with pytest.raises(InstallationError, match="cannot be written: No space left on device") as caught:
        install(bundles[2], root)
    assert "what was installed still is" in caught.value.hint
    assert everything(root) == before


@pytest.mark.usefixtures("quick")
def test_a_flush_that_fails_after_the_switch_does_not_remove_what_is_current(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bundles[1], root)
    write = root_module.write_file

    def unflushed(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == "installed.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(root_module, "write_file", unflushed)
    with pytest.raises(InstallationError, match="Input/output error"):
        install(bundles[2], root)
    assert read_installed(root).sha256 == installed(bundles[2]).sha256


@pytest.mark.usefixtures("quick")
def test_a_root_that_cannot_be_written_says_so(bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InstallationError, match=r"cannot be written: (File exists|Not a directory)"):
        install(bundles[1], tmp_path / "file")


@pytest.mark.usefixtures("quick")
def test_rolling_back_returns_to_the_bundle_before_and_refuses_the_one_that_was_left(
    bundles: Bundles, root: Path
) -> None:
    install(bundles[1], root)
    with pytest.raises(InstallationError, match="there is no bundle from before"):
        rollback(root)
    install(bundles[2], root)
    assert rollback(root).current == installed(bundles[1])
    assert read_installed(root).sha256 == installed(bundles[1]).sha256
    assert len(list((root / "slots").iterdir())) == 1
    with pytest.raises(InstallationError, match="it was refused before: it was rolled back"):
        install(bundles[2], root)
    with pytest.raises(InstallationError, match="there is no bundle from before"):
        rollback(root)


@pytest.mark.usefixtures("quick")
def test_rolling_back_to_an_altered_bundle_changes_nothing(bundles: Bundles, root: Path) -> None:
    install(bundles[1], root)
    install(bundles[2], root)
    alter(Root(root).slot(installed(bundles[1])))
    before = everything(root)
    with pytest.raises(BundleError, match="it was altered"):
        rollback(root)
    assert everything(root) == before


def test_rolling_back_to_a_bundle_that_fails_now_changes_nothing(
    bundles: Bundles, root: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bundles[1], root)
    install(bundles[2], root)
    before = everything(root)
    monkeypatch.setattr(installing, "rehearse_golden", fails)
    with pytest.raises(SelfTestFailed, match="the bundle from before fails its self-test: it is too slow"):
        rollback(root)
    assert everything(root) == before


@pytest.mark.usefixtures("quick")
def test_a_reader_that_an_installer_overtakes_gets_the_new_bundle(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading what is current and opening it, two installers come and go, and the file is gone."""
    from enginewright_runtime.installation import installed as installed_module

    install(bundles[1], root)
    read = installed_module.read_bundle
    calls: list[Path] = []

    def overtaken(path: Path, **options: object) -> object:
        calls.append(path)
        if len(calls) == 1:
            install(bundles[2], root)
            install(bundles[3], root)
        return read(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(installed_module, "read_bundle", overtaken)
    assert read_installed(root).sha256 == installed(bundles[3]).sha256


@pytest.mark.usefixtures("quick")
def test_another_whole_bundle_in_the_slot_is_refused(bundles: Bundles, root: Path) -> None:
    install(bundles[2], root)
    Root(root).slot(installed(bundles[2])).write_bytes(bundles[1].read_bytes())
    with pytest.raises(BundleError, match="another bundle stands there"):
        read_installed(root)


STATES: list[tuple[bytes, str]] = [
    (b"", "not valid JSON"),
    (b"[]", "the document must be an object"),
    (b"{}", "lacks the key 'format'"),
    (b'{"format": 2}', "format 2 is newer than this runtime reads"),
    (b'{"format": 1, "current": null}', "lacks the key 'previous'"),
    (
        b'{"format": 1, "current": {"sha256": "../../../etc/passwd"}, "previous": null, "refused": []}',
        "current.sha256 must be 64 lower-case hexadecimal digits",
    ),
]


@pytest.mark.parametrize(("state", "message"), STATES, ids=[message for _, message in STATES])
def test_a_broken_installed_json_is_said_and_never_followed(
    bundles: Bundles, root: Path, state: bytes, message: str
) -> None:
    root.mkdir()
    (root / "installed.json").write_bytes(state)
    for act in (lambda: read_installed(root), lambda: install(bundles[1], root), lambda: rollback(root)):
        with pytest.raises(InstallationError, match=message):
            act()


def test_nothing_installed_is_said(root: Path) -> None:
    with pytest.raises(InstallationError, match="nothing is installed there"):
        read_installed(root)


# From here on with real self-tests, in processes of their own.


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-tests that measure with little warming up."""
    monkeypatch.setattr(
        rehearsal, "measure", lambda engines, inputs, **rest: measure(engines, inputs, **rest, rounds=35, warm_up=QUICK)
    )


@pytest.mark.usefixtures("short")
def test_a_bundle_that_keeps_its_budgets_is_installed_with_the_findings(root: Path, tiny_path: Path) -> None:
    done = install(tiny_path, root)
    assert [(finding.name, finding.verdict.value) for finding in done.findings] == [
        ("latency_p99_ms", "PASS"),
        ("size_mib", "PASS"),
    ]


def _misses_a_budget(folder: Path) -> Path:
    return make_bundle(folder / "bad.ewb", manifest=replace(tiny_manifest(), budget={"latency_p99_ms": 1e-6}))


def _gives_other_outputs(folder: Path) -> Path:
    return make_bundle(folder / "bad.ewb", golden=tiny_golden(off_by=0.5))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_misses_a_budget, "latency_p99_ms is .*, beyond the budget of 1e-06"),
        (_gives_other_outputs, "its output 'y' is not the golden one"),
    ],
)
def test_a_bundle_that_does_not_do_what_it_says_fails_its_self_test(
    root: Path, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(SelfTestFailed, match=message):
        install(make(tmp_path), root)
    assert Root(root).read().current is None
    assert list((root / "slots").iterdir()) == []


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV when asked to rehearse"),
        ("import os; os._exit(7)", "ended with status 7 when asked to rehearse"),
        ("import time; time.sleep(600)", "no answer within 1 s"),
    ],
)
def test_an_engine_that_crashes_or_hangs_fails_its_self_test(
    bundles: Bundles, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, message: str
) -> None:
    """Where the child looks for the library, it meets code that does so; this process has the real one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        f"            {library}\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(rehearsal, "_LIMIT_S", 1.0 if "sleep" in library else 60.0)
    with pytest.raises(SelfTestFailed, match=message):
        install(bundles[1], root)
    state = Root(root).read()
    assert state.current is None
    assert message in state.why_refused(installed(bundles[1]).sha256)
    assert "\n" not in state.refused[0].reason


def test_a_machine_that_cannot_start_a_self_test_is_not_the_bundle_s_fault(
    bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*arguments: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(rehearsal, "WorkerProcess", no_more)
    with pytest.raises(InstallationError, match="the self-test cannot be run on this machine") as caught:
        install(bundles[1], root)
    assert not isinstance(caught.value, SelfTestFailed)
    assert Root(root).read().refused == ()

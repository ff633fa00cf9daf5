"""SIGKILL at every step and around every operation on a file, and a disk that is really full: what is current is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.installation.bundles import installed

from enginewright_runtime.installation import install, installing

REPOSITORY = Path(__file__).parents[3]

# A process that starts installers, kills each a little later than the one before, and looks at what is left. It is a
# process of its own and forks, so that an installer costs milliseconds; the self-test is one that passes or fails.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from tests.runtime.installation import bundles
from enginewright_runtime.errors import EnginewrightError, InstallationError
from enginewright_runtime.installation import Root, install, installing, read_installed, rollback
from enginewright_runtime.installation.installed import read_kept

scenario, oldest, first, second, folder = sys.argv[1], *map(Path, sys.argv[2:6])
installing.rehearse = bundles.fails if scenario == "refuse" else bundles.passes
installing.rehearse_golden = bundles.passes


def begin(root):
    if scenario == "first":
        return
    installing.rehearse, rehearse = bundles.passes, installing.rehearse
    install(oldest, root)
    install(first, root)
    if scenario == "rollback":
        install(second, root)
    installing.rehearse = rehearse


def act(root, on_step):
    try:
        rollback(root, on_step=on_step) if scenario == "rollback" else install(second, root, on_step=on_step)
    except InstallationError as error:
        expected = {"refuse": ("self-test failed",), "rollback": ("no bundle from before",)}.get(scenario, ())
        if not any(one in error.message for one in expected):
            raise


TOUCHES = {"open", "write", "flush", "fsync", "close", "rename", "replace", "unlink", "remove", "mkdir", "scandir", "flock"}


def killed(root, kill_at):
    '''An installer that kills itself: at a step, or at the operation on files of that number, counting before and after
    each. True if it got to the end.'''
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(frame, event, function):
            nonlocal seen
            if event in ("c_call", "c_return") and function.__name__ in TOUCHES:
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        def on_step(step):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if step == "clean" and isinstance(kill_at, int):  # before it, nothing is written but the lock
                sys.setprofile(watch)

        act(root, on_step)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def whole(root):
    '''The digest of what is current after verifying all that is kept; None where nothing is installed.'''
    state = Root(root).read()
    for bundle in state.kept:
        read_kept(Root(root), bundle, require_key=None)
    return None if state.current is None else read_installed(root).sha256


old, new = bundles.installed(first).sha256, bundles.installed(second).sha256
allowed = {"first": {None, new}, "install": {old, new}, "refuse": {old}, "rollback": {old, new}}[scenario]
wanted = {"first": new, "install": new, "refuse": old, "rollback": old}[scenario]
begin(folder / "begun")
found = []
for kill_at in [*installing.STEPS, *range(1, 1000)]:
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    if scenario != "first":
        shutil.copytree(folder / "begun", root)
    ended = killed(root, kill_at)
    assert whole(root) in allowed, (kill_at, whole(root))
    found.append([str(kill_at), ended])
    act(root, lambda step: None)
    assert whole(root) == wanted, (kill_at, whole(root))
    left = {path for path in root.rglob("*") if path.is_file()} - {root / "lock", root / "installed.json"}
    assert left == {Root(root).slot(bundle) for bundle in Root(root).read().kept}, (kill_at, left)
    if ended and isinstance(kill_at, int):
        break
print(json.dumps(found))
"""


NOT_REACHED = {"refuse": {"switch", "tidy"}, "rollback": {"verify", "store"}}


def run(*arguments: object, program: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "runtime")))
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.parametrize("scenario", ["first", "install", "refuse", "rollback"])
def test_whenever_the_installer_is_killed_what_is_current_is_whole_and_the_next_one_ends_well(
    scenario: str, bundles: dict[int, Path], tmp_path: Path
) -> None:
    done = run(scenario, *bundles.values(), tmp_path, program=KILLER)
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, bool]] = json.loads(done.stdout)
    reached = {step for step, ended in found[: len(installing.STEPS)] if not ended}
    assert reached == set(installing.STEPS) - NOT_REACHED.get(scenario, set())
    at_operations = [ended for _, ended in found[len(installing.STEPS) :]]
    assert at_operations == [False] * (len(at_operations) - 1) + [True]
    assert len(at_operations) > 30, at_operations


FULL = """
import json, subprocess, sys
from pathlib import Path
from tests.runtime.installation import bundles
from enginewright_runtime.errors import InstallationError
from enginewright_runtime.installation import install, installing, read_installed

first, second, mount = map(Path, sys.argv[1:4])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(mount)], check=True)
installing.rehearse = bundles.passes
installing._check_space = lambda place, bundle: None
root = mount / "root"
install(first, root)
old, new = bundles.installed(first).sha256, bundles.installed(second).sha256
refused = 0
for pages in range(0, 100):
    filler = mount / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            stream.truncate(max(0, stream.tell() - pages * 4096))
    try:
        install(second, root)
        break
    except InstallationError as error:
        assert "No space left on device" in error.message, error
        refused += 1
    assert read_installed(root).sha256 == old
    filler.unlink()
assert read_installed(root).sha256 == new
print(refused)
"""


def test_on_a_full_disk_what_is_current_stays_whole(bundles: dict[int, Path], tmp_path: Path) -> None:
    """On a file system of its own, with ever more pages free until the bundle can be installed."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL]
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "runtime")))
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "timeout": 120}
    try:
        allowed = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], **options).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("no file system can be mounted here without being root")
    done = subprocess.run(
        [*command, *map(str, (bundles[1], bundles[2], tmp_path))], **options, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


@pytest.mark.usefixtures("quick")
def test_what_a_killed_installer_left_is_removed_by_the_next(bundles: dict[int, Path], root: Path) -> None:
    install(bundles[1], root)
    for name in ("slots/.x.ewb.00.partial", f"slots/{'0' * 64}.ewb", ".installed.json.00.partial"):
        (root / name).write_bytes(b"half")
    install(bundles[2], root)
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    slots = {f"slots/{installed(bundles[sequence]).sha256}.ewb" for sequence in (1, 2)}
    assert names == {"installed.json", "lock", *slots}

"""Installing a bundle, and going back to the one before.

A bundle is verified, checked against this device and this root, stored whole beside the current one, tried, and only
then made current, by replacing one file. Whatever ends the installer, and wherever, what was current stays current and
whole, and the next installer clears away what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.budget import Finding
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.errors import BundleError, InstallationError, SelfTestFailed
from enginewright_runtime.golden import read_golden
from enginewright_runtime.installation.installed import read_kept
from enginewright_runtime.installation.rehearsal import Rehearsal, rehearse, rehearse_golden
from enginewright_runtime.installation.root import Installed, Root, State
from enginewright_runtime.session import fitting_engine

STEPS = ("verify", "clean", "check", "store", "self-test", "switch", "tidy")
_SPARE_BYTES = 1 << 20  # for installed.json and what the file system itself takes

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Installation:
    """What is current now, and what was before. `changed` is False where the bundle was current already."""

    current: Installed
    previous: Installed | None
    changed: bool
    findings: tuple[Finding, ...] = ()


def install(
    path: Path,
    root: Path,
    *,
    require_key: str | Path | None = None,
    allow_older: bool = False,
    allow_refused: bool = False,
    on_step: OnStep = lambda step: None,
) -> Installation:
    """Install a bundle in `root` and make it current, or leave everything as it was and raise why.

    `on_step` is told each of STEPS before it begins. Raises BundleError where the file is not a whole bundle, or is not
    signed by the public key in the file `require_key`; NoEngineFits and BackendMissing where it does not run here;
    InstallationError where it is older than what is current (unless `allow_older`), was refused before (unless
    `allow_refused`), is of another network or target, or does not fit the disk; InstallationBusy beside another
    installer; SelfTestFailed where it fails on this machine, and then it is remembered as refused.
    """
    on_step("verify")
    bundle = read_bundle(path, require_key=require_key)
    new = Installed.of(bundle.sha256, bundle.manifest)
    place = Root(root)
    with place.locked():
        on_step("clean")
        state = _cleaned(place)
        on_step("check")
        _check_device(bundle)
        _check_order(new, state, allow_older=allow_older, allow_refused=allow_refused)
        if new == state.current and _is_whole(place, new, require_key):
            return Installation(new, state.previous, changed=False)
        _check_space(place, bundle)
        on_step("store")
        with place.writing():
            place.store(new, bundle.data)
        on_step("self-test")
        rehearsal = rehearse(read_kept(place, new, require_key=require_key))
        if rehearsal.failure:
            _refuse(place, state, new, rehearsal)
        return _switch(place, state, new, rehearsal, on_step)


def rollback(root: Path, *, require_key: str | Path | None = None, on_step: OnStep = lambda step: None) -> Installation:
    """Make the bundle that was current before current again, and remember the one that is left as refused.

    Raises InstallationError where there is none before; BundleError, NoEngineFits and SelfTestFailed where it cannot be
    used, and then nothing changes. Its golden outputs are compared; budgets are not judged, for it met them once.
    """
    place = Root(root)
    with place.locked():
        on_step("clean")
        state = _cleaned(place)
        on_step("check")
        if state.previous is None or state.current is None:
            raise InstallationError(f"{root}: there is no bundle from before to go back to")
        bundle = read_kept(place, state.previous, require_key=require_key)
        _check_device(bundle)
        on_step("self-test")
        rehearsal = rehearse_golden(bundle)
        if rehearsal.failure:
            raise SelfTestFailed(f"{bundle.path}: the bundle from before fails its self-test: {rehearsal.failure}")
        back = State(state.previous, None, state.refused).refusing(state.current, "it was rolled back")
        on_step("switch")
        with place.writing():
            place.write(back)
        on_step("tidy")
        with place.writing():
            place.clean(back)
        return Installation(state.previous, None, changed=True)


def _cleaned(place: Root) -> State:
    """What is installed, after what a killed installer left was removed."""
    state = place.read()
    with place.writing():
        place.clean(state)
    return state


def _check_device(bundle: Bundle) -> None:
    """The device is what the bundle is for where an engine of it fits, and its golden inputs are there to show it."""
    fitting_engine(bundle)
    read_golden(bundle)


def _check_order(new: Installed, state: State, *, allow_older: bool, allow_refused: bool) -> None:
    """Whether this bundle may follow what is current."""
    if (reason := state.why_refused(new.sha256)) and not allow_refused:
        raise InstallationError(
            f"{new}: it was refused before: {reason}", hint="build a better one, or insist with --allow-refused"
        )
    current = state.current
    if current is None:
        return
    if (new.name, new.target) != (current.name, current.target):
        raise InstallationError(
            f"{new.name} for {new.target} cannot follow {current.name} for {current.target}",
            hint="give each network a root of its own",
        )
    if new.sequence < current.sequence and not allow_older:
        was = f"sequence {new.sequence}" if new.sequence else "unnumbered"
        raise InstallationError(
            f"{new}: it is {was}, older than sequence {current.sequence}, which is current",
            hint="insist with --allow-older, or go back with `rollback`",
        )


def _check_space(place: Root, bundle: Bundle) -> None:
    with place.writing():
        free = place.free_bytes()
    if free < (needed := len(bundle.data) + _SPARE_BYTES):
        raise InstallationError(
            f"{place.path}: {free} bytes are free there, and installing needs {needed}",
            hint="free some space there; what was installed still is",
        )


def _is_whole(place: Root, bundle: Installed, require_key: str | Path | None) -> bool:
    try:
        read_kept(place, bundle, require_key=require_key)
    except BundleError:
        return False
    return True


def _refuse(place: Root, state: State, new: Installed, rehearsal: Rehearsal) -> None:
    """Take the bundle away again, unless it was kept before, and remember why."""
    in_one_line = rehearsal.failure.splitlines()[0]  # what a process wrote before it died is said once, not kept
    refusing = state.refusing(new, f"its self-test failed: {in_one_line}")
    with place.writing():
        place.write(refusing)
        place.clean(refusing)
    raise SelfTestFailed(
        f"{new}: its self-test failed, and it was not installed: {rehearsal.failure}",
        hint="what was installed still is; `enginewright-runtime status` shows it",
    )


def _switch(place: Root, state: State, new: Installed, rehearsal: Rehearsal, on_step: OnStep) -> Installation:
    changed = new != state.current
    previous = state.current if changed else state.previous
    after = State(new, previous, state.refused).accepting(new.sha256)
    on_step("switch")
    with place.writing():
        try:
            place.write(after)
        except OSError:
            # A disk that is full keeps no bundle that is not used; but where flushing failed after the name was taken,
            # the new one is used.
            place.clean(place.read())
            raise
    on_step("tidy")
    with place.writing():
        place.clean(after)
    return Installation(new, previous, changed=True, findings=rehearsal.findings)

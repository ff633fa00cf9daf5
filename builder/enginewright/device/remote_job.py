"""Runs a command on the device so that it outlives the connection. Sent there as it is, it needs Python 3.8 alone.

    python3 remote_job.py start FOLDER COMMAND...   begin, unless it runs or has succeeded; prints the state
    python3 remote_job.py state FOLDER              absent, running, done (with its exit code) or died
    python3 remote_job.py follow FOLDER OFFSET      the log from that byte on, until the command has ended
    python3 remote_job.py stop FOLDER               end it; prints the state
    python3 remote_job.py place                     what this device is: its home, its Python, the free bytes there

FOLDER holds `out` and `log` (the command's two streams), `pid` (the supervisor, which leads a session of its own),
`status` (the exit code, once it has ended) and `lock`, held as long as the supervisor or the command lives: whoever
finds it free and no `status` knows that the command was killed, by a power cut for instance.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_SECONDS_TO_END = 5.0
_SECONDS_BETWEEN_LOOKS = 0.25


def main(arguments: list[str]) -> int:
    verb, rest = arguments[0], arguments[1:]
    if verb == "place":
        _say(place())
        return 0
    folder = Path(rest[0])
    if verb == "start":
        _say(start(folder, rest[1:]))
    elif verb == "state":
        _say(state(folder))
    elif verb == "stop":
        _say(stop(folder))
    else:
        follow(folder, int(rest[1]))
    return 0


def _say(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")


def place() -> dict[str, object]:
    """What this device is, and how much room its home has."""
    home = Path.home()
    version = ".".join(map(str, sys.version_info[:2]))
    free_bytes = shutil.disk_usage(str(home)).free
    return {"home": str(home), "python": version, "machine": platform.machine(), "free_bytes": free_bytes}


def state(folder: Path) -> dict[str, object]:
    """One of absent, running, done and died."""
    if _is_held(folder):
        return {"state": "running"}
    status = folder / "status"  # read after the lock: a command that ended in between has left it
    if status.exists():
        return {"state": "done", "code": int(status.read_text())}
    return {"state": "died" if (folder / "pid").exists() else "absent"}


def start(folder: Path, command: list[str]) -> dict[str, object]:
    """Begin the command in `folder`, unless it runs or has succeeded already."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starting").open("wb") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        found = state(folder)
        if found["state"] == "running" or found.get("code") == 0:
            return found
        for name in ("status", "log", "out", "pid"):
            if (folder / name).exists():
                (folder / name).unlink()
        began, begins = os.pipe()
        if os.fork() == 0:
            starting.close()  # else the lock would be held for as long as the command runs
            _supervise(folder, command, begins)
        os.close(begins)
        os.read(began, 1)
    return state(folder)


def _supervise(folder: Path, command: list[str], begins: int) -> None:
    """The child's whole life: in a session of its own, so that the end of the connection does not reach it."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # meant for the command, whose exit code is to be kept
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    code = 1
    try:
        lock = os.open(str(folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "pid").write_text(str(os.getpid()))
        with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
            os.write(begins, b"1")
            os.close(begins)
            try:
                process = subprocess.Popen(command, cwd=str(folder), stdout=out, stderr=log, pass_fds=(lock,))
                code = process.wait()
            except OSError as error:
                log.write(f"{command[0]}: {error.strerror}\n".encode())
                code = 127
        (folder / "status.partial").write_text(str(code))
        (folder / "status.partial").replace(folder / "status")
    finally:
        os._exit(code if 0 <= code < 256 else 1)


def _is_held(folder: Path) -> bool:
    try:
        lock = os.open(str(folder / "lock"), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def follow(folder: Path, offset: int) -> None:
    """Copy the log to standard output as it grows, until the command has ended."""
    log = folder / "log"
    while True:
        running = _is_held(folder)  # before the log is read: what comes after its end is read then
        if log.exists():
            with log.open("rb") as stream:
                stream.seek(offset)
                text = stream.read()
            offset += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        if not running:
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def stop(folder: Path) -> dict[str, object]:
    """End the command: as Ctrl-C does first, by force where that is not enough."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if not _is_held(folder):
            break
        os.killpg(int((folder / "pid").read_text()), number)
        ends = time.monotonic() + _SECONDS_TO_END
        while _is_held(folder) and time.monotonic() < ends:
            time.sleep(0.05)
    return state(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

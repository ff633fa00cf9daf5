"""Commands on the device, without a network: they outlive whoever started them, run once, and tell how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.builder.device.lab import wait_until

from enginewright.device import remote_job

SCRIPT = Path(remote_job.__file__)


def ask(verb: str, folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), verb, str(folder), *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return dict(json.loads(answer.stdout))


def follow(folder: Path, offset: int = 0) -> str:
    command = [sys.executable, str(SCRIPT), "follow", str(folder), str(offset)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_command_tells_its_streams_and_its_exit_code(tmp_path: Path) -> None:
    assert ask("state", tmp_path / "job") == {"state": "absent"}
    ask("start", tmp_path / "job", "sh", "-c", "echo result; echo step >&2; sleep 0.3; echo end >&2; exit 7")
    assert follow(tmp_path / "job") == "step\nend\n"
    assert follow(tmp_path / "job", 5) == "end\n"
    assert ask("state", tmp_path / "job") == {"state": "done", "code": 7}
    assert (tmp_path / "job" / "out").read_text() == "result\n"


def test_a_command_outlives_the_session_that_started_it(tmp_path: Path) -> None:
    """As when a connection breaks: the whole process group of the starter gets a hang-up and is killed."""
    script = f"'{sys.executable}' '{SCRIPT}' start '{tmp_path}/job' sh -c 'sleep 0.5; echo lives >&2'; sleep 60"
    starter = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert json.loads(starter.stdout.readline()) == {"state": "running"}
    for number in (signal.SIGHUP, signal.SIGKILL):
        os.killpg(starter.pid, number)
    starter.wait(10)
    starter.stdout.close()
    assert follow(tmp_path / "job") == "lives\n"
    assert ask("state", tmp_path / "job") == {"state": "done", "code": 0}


def test_a_command_that_runs_or_has_succeeded_is_not_begun_again(tmp_path: Path) -> None:
    count = ["sh", "-c", f"echo x >> '{tmp_path}/count'; while ! test -e '{tmp_path}/go'; do sleep 0.05; done"]
    ask("start", tmp_path / "job", *count)
    assert ask("start", tmp_path / "job", *count) == {"state": "running"}
    (tmp_path / "go").touch()
    follow(tmp_path / "job")
    assert ask("start", tmp_path / "job", *count) == {"state": "done", "code": 0}
    assert (tmp_path / "count").read_text() == "x\n"


def test_a_command_that_failed_or_was_killed_is_begun_again(tmp_path: Path) -> None:
    ask("start", tmp_path / "job", "sh", "-c", "exit 3")
    follow(tmp_path / "job")
    assert ask("start", tmp_path / "job", "sleep", "60") == {"state": "running"}
    os.killpg(int((tmp_path / "job" / "pid").read_text()), signal.SIGKILL)
    wait_until(lambda: ask("state", tmp_path / "job") == {"state": "died"}, what="the command is known to be dead")
    ask("start", tmp_path / "job", "true")
    follow(tmp_path / "job")
    assert ask("state", tmp_path / "job") == {"state": "done", "code": 0}


def test_a_command_can_be_stopped_even_where_it_does_not_listen(tmp_path: Path) -> None:
    ask("start", tmp_path / "job", "sleep", "60")
    assert ask("stop", tmp_path / "job")["state"] == "done"
    assert ask("stop", tmp_path / "absent") == {"state": "absent"}


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    ask("start", tmp_path / "job", "no-such-program")
    assert follow(tmp_path / "job") == "no-such-program: No such file or directory\n"
    assert ask("state", tmp_path / "job") == {"state": "done", "code": 127}

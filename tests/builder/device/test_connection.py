"""Reaching a device: strangers are refused with what to do, and what breaks is taken up again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncssh
import pytest
from tests.builder.device.lab import Lab, environment_of, wait_until

from enginewright.device.address import DeviceAddress
from enginewright.device.connection import Device
from enginewright.device.errors import DeviceError, DeviceLost
from enginewright.device.job import Ended, Jobs, find_place

T = TypeVar("T")
AT_ONCE = (0.05, 0.1, 0.2)


def reached(address: DeviceAddress, use: Callable[[Device], Awaitable[T]], *, waits_s: Sequence[float] = AT_ONCE) -> T:
    async def reach() -> T:
        async with Device(address, say=print, waits_s=waits_s) as device:
            return await use(device)

    return asyncio.run(reach())


def refusal(address: DeviceAddress) -> DeviceError:
    with pytest.raises(DeviceError) as refused:
        reached(address, lambda device: device.run(["true"]))
    return refused.value


def test_a_command_gives_its_exit_code_and_both_streams(lab: Lab) -> None:
    command = ["sh", "-c", "echo one; echo 'two words' >&2; exit 3"]
    assert reached(lab.address, lambda device: device.run(command)) == (3, "one\n", "two words\n")


def test_an_unknown_host_key_is_refused_with_its_fingerprint(lab: Lab) -> None:
    lab.folders.known_hosts.unlink()
    error = refusal(lab.address)
    assert f"is not known. It shows {lab.host_key.get_fingerprint()}" in error.message
    assert f"ssh -p {lab.port} lab@127.0.0.1" in error.hint


def test_a_changed_host_key_is_refused_as_changed(lab: Lab) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    lab.folders.known_hosts.write_text(f"[127.0.0.1]:{lab.port} {other}\n")
    error = refusal(lab.address)
    assert "has another host key than the one in known_hosts" in error.message
    assert lab.host_key.get_fingerprint() in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{lab.port}'" in error.hint


def test_a_host_key_of_another_kind_than_the_known_one_is_refused_as_changed(lab: Lab) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().strip()
    lab.folders.known_hosts.write_text(f"[127.0.0.1]:{lab.port} {other}\n")
    assert "has another host key than the one in known_hosts" in refusal(lab.address).message


def test_the_users_configuration_cannot_switch_the_check_off(lab: Lab) -> None:
    lab.folders.known_hosts.unlink()
    config = lab.folders.user / ".ssh" / "config"
    config.write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    assert "is not known" in refusal(lab.address).message


def test_the_users_configuration_names_host_user_and_port(lab: Lab) -> None:
    (lab.folders.user / ".ssh" / "config").write_text(
        f"Host bench\n  HostName 127.0.0.1\n  User lab\n  Port {lab.port}\n"
    )
    assert reached(DeviceAddress("bench"), lambda device: device.run(["true"]))[0] == 0


def test_a_wrong_user_is_refused(lab: Lab) -> None:
    error = refusal(DeviceAddress("127.0.0.1", "stranger", lab.port))
    assert "lets nobody in with the keys that were offered" in error.message
    assert "ssh-copy-id" in error.hint


def test_a_wrong_key_is_refused(lab: Lab) -> None:
    lab.folders.write_key()
    assert "lets nobody in with the keys that were offered" in refusal(lab.address).message


def test_a_device_that_does_not_answer_is_named(lab: Lab) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = DeviceAddress("127.0.0.1", "lab", free.getsockname()[1])
    assert f"{address} cannot be reached" in refusal(address).message


def test_a_full_disk_is_said_and_leaves_no_half_a_file(lab: Lab) -> None:
    lab.close()
    lab.full = True
    lab.open()
    with pytest.raises(DeviceError, match=r"bundle.ewb \(0.1 MiB\) cannot be written: No space left on device"):
        reached(lab.address, lambda device: device.put(b"x" * 100_000, f"{lab.folders.device}/bundle.ewb"))
    assert list(lab.folders.device.iterdir()) == []


def test_a_device_without_python_is_told_so(lab: Lab) -> None:
    lab.environment = {**environment_of(lab.folders.device, None), "PATH": str(lab.folders.device)}
    with pytest.raises(DeviceError, match="does not run python3") as failed:
        reached(lab.address, find_place)
    assert "Python 3.10" in failed.value.hint


SLOWLY = ["sh", "-c", "echo x >> ~/count; for i in 1 2 3 4 5 6; do echo line $i >&2; sleep 0.3; done"]


def test_a_dropped_connection_is_taken_up_without_a_line_lost_or_a_command_run_twice(lab: Lab) -> None:
    lines: list[str] = []

    async def use(device: Device) -> Ended:
        place = await find_place(device)
        jobs = Jobs(device, place.root, say=print)
        return await jobs.run(f"{place.root}/jobs/slow", SLOWLY, on_line=lines.append)

    def drop_twice() -> None:
        for least in (1, 4):
            wait_until(lambda least=least: len(lines) >= least, what="lines come")  # type: ignore[misc]
            lab.drop()

    dropping = threading.Thread(target=drop_twice)
    dropping.start()
    ended = reached(lab.address, use)
    dropping.join(20)
    assert lab.accepted == 3
    assert lines == [f"line {i}" for i in range(1, 7)] == list(ended.log)
    assert (lab.folders.device / "count").read_text() == "x\n"


def test_a_second_attempt_goes_on_with_what_the_first_began(lab: Lab) -> None:
    def slowly(on_line: Callable[[str], None]) -> Callable[[Device], Awaitable[Ended]]:
        async def use(device: Device) -> Ended:
            place = await find_place(device)
            jobs = Jobs(device, place.root, say=print)
            return await jobs.run(f"{place.root}/jobs/slow", SLOWLY, on_line=on_line)

        return use

    with pytest.raises(DeviceLost, match="broke and did not come back") as lost:
        reached(lab.address, slowly(lambda line: lab.close()), waits_s=(0.05,))
    assert "build again" in lost.value.hint
    lab.open()
    assert reached(lab.address, slowly(print)).code == 0
    assert (lab.folders.device / "count").read_text() == "x\n"


def test_ctrl_c_stops_the_command_on_the_device(lab: Lab) -> None:
    said: list[str] = []

    async def use(device: Device) -> str:
        place = await find_place(device)
        jobs = Jobs(device, place.root, say=said.append)
        folder = f"{place.root}/jobs/long"
        task = asyncio.ensure_future(jobs.run(folder, ["sleep", "60"], on_line=print))
        while not (lab.folders.device / ".cache/enginewright/lab/jobs/long/pid").exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return folder

    folder = reached(lab.address, use)
    assert said == [f"stopped on {lab.address}"]
    assert (lab.folders.device / folder / "status").exists()

"""A device of a lab, on loopback: an SSH server with a home of its own, whose user is allowed in with one key.

OpenSSH's sshd where it is installed; asyncssh's own server, which runs real processes and has SFTP, everywhere.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import asyncssh

from enginewright.device.address import DeviceAddress

USER = "lab"


@dataclass
class Folders:
    """The user's own home with the keys, and the device's home."""

    user: Path
    device: Path

    @property
    def key(self) -> Path:
        return self.user / ".ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.user / ".ssh" / "known_hosts"

    def write_key(self) -> asyncssh.SSHKey:
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.key.parent.mkdir(parents=True, exist_ok=True)
        self.key.unlink(missing_ok=True)
        self.key.write_bytes(key.export_private_key())
        self.key.chmod(0o600)
        return key


def make_folders(root: Path) -> Folders:
    folders = Folders(root / "user", root / "device")
    for folder in (folders.user, folders.device):
        folder.mkdir(parents=True)
    return folders


def site_with(root: Path, *distributions: str) -> Path:
    """A folder of links to what is installed here: all that the device has, whatever else this environment holds."""
    root.mkdir()
    for name in distributions:
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and not (root / top).exists():
                (root / top).symlink_to(Path(str(found.locate_file(top))))
    return root


def environment_of(home: Path, site: Path | None) -> dict[str, str]:
    """A clean one: nothing of the test's own process but the way to its Python, and no network for pip."""
    clean = {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PIP_NO_INDEX": "1",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    return clean if site is None else {**clean, "PYTHONPATH": str(site)}


class _Full(asyncssh.SFTPServer):
    """Of a device whose disk is full for what is larger than a script."""

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        if offset + len(data) > 16_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file_obj, offset, data)  # type: ignore[return-value]


@dataclass
class Lab:
    """asyncssh's server in a thread. `drop` breaks every connection, `close` and `open` end and begin the service."""

    folders: Folders
    environment: Mapping[str, str]
    allowed: asyncssh.SSHKey
    host_key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    full: bool = False
    port: int = 0
    accepted: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._children: list[tuple[object, asyncio.subprocess.Process]] = []
        self._server: asyncssh.SSHAcceptor | None = None
        self.open()

    @property
    def address(self) -> DeviceAddress:
        return DeviceAddress("127.0.0.1", USER, self.port)

    def trust(self) -> None:
        public = self.host_key.export_public_key().decode().strip()
        self.folders.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")

    def open(self) -> None:
        self._do(self._open())

    def close(self) -> None:
        async def close() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None

        self._do(close())
        self.drop()

    def drop(self) -> None:
        async def drop() -> None:
            for connection in tuple(self._connections):
                connection.abort()

        self._do(drop())

    def end(self) -> None:
        async def rest() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.1)

        self.close()
        self._do(rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _open(self) -> None:
        lab = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
                self.connection = connection
                lab._connections.add(connection)
                lab.accepted += 1

            def connection_lost(self, error: Exception | None) -> None:
                lab._connections.discard(self.connection)
                for connection, child in lab._children:
                    if connection is self.connection:
                        _kill(child)

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return username == USER and key == lab.allowed.convert_to_public()

        self._server = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key],
            process_factory=self._run,
            sftp_factory=_Full if self.full else True,
            encoding=None,
        )
        self.port = self._server.get_port()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """As sshd does: the user's shell with the command, in a session of its own, which a broken connection ends."""
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            process.command or "true",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(self.environment),
            cwd=self.folders.device,
            start_new_session=True,
        )
        self._children.append((process.channel.get_connection(), child))
        try:
            await asyncio.gather(_copied(child.stdout, process.stdout), _copied(child.stderr, process.stderr))
            process.exit(max(await child.wait(), 0))
        except (OSError, asyncssh.Error):
            return  # the connection is gone
        finally:
            _kill(child)
            await child.wait()


def _kill(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        os.killpg(child.pid, signal.SIGKILL)


class OpenSSH:
    """OpenSSH's own sshd, for whoever runs the tests; `why` says why it does not run here, and is empty where it does."""

    def __init__(self, folders: Folders, environment: Mapping[str, str]) -> None:
        self.folders = folders
        self.why = ""
        self._process: subprocess.Popen[bytes] | None = None
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("sshd", path=search)
        if program is None:
            self.why = "sshd is not installed"
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = DeviceAddress("127.0.0.1", getpass.getuser(), free.getsockname()[1])
        config = self._configure(environment)
        tested = subprocess.run([program, "-t", "-f", config], capture_output=True, text=True, check=False)
        if tested.returncode != 0:
            self.why = f"sshd does not run here: {tested.stderr.strip()}"
            return
        self._process = subprocess.Popen([program, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        wait_until(self._answers, what="sshd answers")

    def _configure(self, environment: Mapping[str, str]) -> Path:
        root = self.folders.user / "sshd"
        root.mkdir()
        host_key, user_key = asyncssh.generate_private_key("ssh-ed25519"), self.folders.write_key()
        (root / "host_key").write_bytes(host_key.export_private_key())
        (root / "host_key").chmod(0o600)
        (root / "authorized_keys").write_bytes(user_key.export_public_key())
        public = host_key.export_public_key().decode().strip()
        self.folders.known_hosts.write_text(f"[127.0.0.1]:{self.address.port} {public}\n")
        lines = [
            f"ListenAddress 127.0.0.1:{self.address.port}",
            f"HostKey {root}/host_key",
            f"AuthorizedKeysFile {root}/authorized_keys",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "Subsystem sftp internal-sftp",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
        ]
        (root / "config").write_text("\n".join(lines) + "\n")
        return root / "config"

    def _answers(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.address.port or 0)) == 0

    def drop(self) -> None:
        """Kill the process of every connection."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


async def _copied(source: asyncio.StreamReader | None, target: asyncssh.SSHWriter[bytes]) -> None:
    assert source is not None
    while data := await source.read(1 << 16):
        target.write(data)
        await target.drain()


def wait_until(holds: Callable[[], bool], *, what: str, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)

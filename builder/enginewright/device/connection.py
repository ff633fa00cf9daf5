"""Reaching a device over SSH: host keys are checked, passwords never used, and a broken connection is taken up again.

Keys, the agent and ~/.ssh/config are as asyncssh reads them.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from enginewright.device.address import DeviceAddress
from enginewright.device.errors import DeviceError, DeviceLost
from enginewright_runtime.errors import BackendMissing

if TYPE_CHECKING:
    import asyncssh

__all__ = ["WAITS_S", "Device", "connected", "needs_asyncssh"]

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # before each attempt to reach a device again
_CONNECT_S = 20.0
_SILENCE_S = 10.0  # after which the device is asked whether it is there; the third question is the last

T = TypeVar("T")


def needs_asyncssh() -> None:
    """Raises BackendMissing where asyncssh is not installed."""
    try:
        import asyncssh  # noqa: F401 (only whether it is there)
    except ImportError:
        raise BackendMissing("asyncssh is not installed", hint="pip install 'enginewright[ssh]'") from None


class _Lost(Exception):
    """The connection broke in the midst of something; never leaves this module."""


class Device:
    """A device that is reached again when the connection breaks. Everything it does may be done twice.

    An asynchronous context manager. `say` gets a sentence for each thing that a person should know.
    """

    def __init__(self, address: DeviceAddress, *, say: Callable[[str], None], waits_s: Sequence[float] = WAITS_S):
        self.address = address
        self._say = say
        self._waits_s = waits_s
        self._connection: asyncssh.SSHClientConnection | None = None

    async def __aenter__(self) -> Device:
        try:
            self._connection = await connected(self.address)
        except _broken() as error:
            raise DeviceError(
                f"{self.address} cannot be reached: {getattr(error, 'strerror', '') or error or 'it does not answer'}",
                hint="check the host and the port, and that SSH runs there",
            ) from None
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._connection is not None:
            self._connection.abort()  # nothing is left to be sent, and a dead peer must not keep us waiting
            self._connection = None

    async def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        """The exit code, the output and the errors of a short command."""

        async def attempt(connection: asyncssh.SSHClientConnection) -> tuple[int, str, str]:
            ended = await connection.run(shlex.join(command), check=False, encoding="utf-8", errors="replace")
            if ended.exit_status is None or ended.exit_status < 0:
                raise _Lost
            return ended.exit_status, str(ended.stdout), str(ended.stderr)

        return await self._steadily(attempt)

    async def put(self, data: bytes, path: str) -> None:
        """Write a file on the device, which appears under its name when it is whole."""
        import asyncssh

        async def attempt(connection: asyncssh.SSHClientConnection) -> None:
            async with connection.start_sftp_client() as files:
                try:
                    async with files.open(f"{path}.partial", "wb") as stream:
                        await stream.write(data)
                    await files.posix_rename(f"{path}.partial", path)
                except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                    raise
                except asyncssh.SFTPError as error:
                    with suppress(asyncssh.SFTPError):
                        await files.remove(f"{path}.partial")
                    raise DeviceError(
                        f"{self.address}: {path} ({len(data) / 2**20:.1f} MiB) cannot be written: {error.reason}",
                        hint="see that its disk has room, and that the folder can be written; then build again",
                    ) from None

        await self._steadily(attempt)

    async def get(self, path: str) -> bytes:
        """Read a file of the device."""
        import asyncssh

        async def attempt(connection: asyncssh.SSHClientConnection) -> bytes:
            async with connection.start_sftp_client() as files:
                try:
                    async with files.open(path, "rb") as stream:
                        data = await stream.read()
                        assert isinstance(data, bytes)  # the file is opened as such
                        return data
                except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                    raise
                except asyncssh.SFTPError as error:
                    raise DeviceError(f"{self.address}: {path} cannot be read: {error.reason}") from None

        return await self._steadily(attempt)

    async def lines(self, command: Callable[[int], Sequence[str]]) -> AsyncGenerator[str, None]:
        """The lines that a command writes, as they come. `command` is given the bytes that were read so far, with which it
        goes on after the connection broke.
        """
        taken, rest = 0, b""
        queue: asyncio.Queue[bytes] = asyncio.Queue()

        async def attempt(connection: asyncssh.SSHClientConnection) -> None:
            nonlocal taken
            async with connection.create_process(shlex.join(command(taken)), encoding=None) as process:
                while data := await process.stdout.read(1 << 16):
                    taken += len(data)
                    queue.put_nowait(bytes(data))
                ended = await process.wait()
            if ended.exit_status is None or ended.exit_status < 0:
                raise _Lost

        reading = asyncio.ensure_future(self._steadily(attempt))
        try:
            while not (reading.done() and queue.empty()):
                waiting = asyncio.ensure_future(queue.get())
                await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    continue
                *whole, rest = (rest + waiting.result()).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace").rstrip("\r")
            await reading
        finally:
            reading.cancel()

    async def _steadily(self, attempt: Callable[[asyncssh.SSHClientConnection], Awaitable[T]]) -> T:
        """Do it, and again after each time that the connection broke: a few times, counted anew once it has held."""
        tries, held_s = 0, sum(self._waits_s)
        while True:
            began = monotonic()
            try:
                if self._connection is None:
                    self._connection = await connected(self.address)
                    self._say(f"connected to {self.address} again")
                return await attempt(self._connection)
            except _broken() as error:
                if self._connection is not None:
                    self._connection.abort()
                    self._connection = None
                tries = 1 if monotonic() - began > held_s + _CONNECT_S else tries + 1
                if tries > len(self._waits_s):
                    raise DeviceLost(
                        f"the connection to {self.address} broke and did not come back: {error or 'it was closed'}",
                        hint="build again when the device can be reached: what was begun there goes on meanwhile, and what "
                        "is done is not done again",
                    ) from None
                wait_s = self._waits_s[tries - 1]
                self._say(f"the connection to {self.address} broke; the next attempt is in {wait_s:g} s")
                await asyncio.sleep(wait_s)


def _broken() -> tuple[type[Exception], ...]:
    """What tells that the other side is gone. From Python 3.11 on, asyncio's TimeoutError is an OSError."""
    import asyncssh

    gone = (asyncssh.DisconnectError, asyncssh.ChannelOpenError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
    return (_Lost, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, *gone)


async def connected(address: DeviceAddress) -> asyncssh.SSHClientConnection:
    """A new connection. Raises DeviceError where the host key or the user's key is refused, OSError and asyncssh's own
    errors where the device does not answer.
    """
    import asyncssh

    shown = _Shown()
    try:
        named: dict[str, Any] = {"port": () if address.port is None else address.port, "username": address.user or ()}
        options = await asyncssh.SSHClientConnectionOptions.construct(None, host=address.host, **named)
        known_hosts = _known_hosts(options)
        try:
            return await _opened(address.host, known_hosts, shown, **named)
        except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost):
            # asyncssh asks for the kinds of keys that are known, and a device without such a key ends it: the one that
            # it has is to be shown, and is checked like any other.
            return await _opened(address.host, known_hosts, shown, **named, server_host_key_algs="default")
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        raise _untrusted(address, options, known_hosts, shown.key or str(error.reason)) from None
    except asyncssh.PermissionDenied:
        raise DeviceError(
            f"{address} lets nobody in with the keys that were offered",
            hint=f"check the user's name; make the key known with {_ssh('ssh-copy-id', address)}, and load it with ssh-add where "
            "it has a passphrase",
        ) from None
    except (ValueError, asyncssh.KeyImportError, asyncssh.ConfigParseError) as error:
        raise DeviceError(f"what SSH reads on this computer is wrong: {error}", hint="see ~/.ssh") from None


class _Shown:
    """The fingerprint of the key that the device showed and that is not known; "" where it got none across."""

    key = ""


async def _opened(host: str, known_hosts: Sequence[str], shown: _Shown, **options: Any) -> asyncssh.SSHClientConnection:
    import asyncssh

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            shown.key = key.get_fingerprint()
            return False

    connection, _ = await asyncssh.create_connection(
        Client,
        host,
        known_hosts=known_hosts or b"",
        password_auth=False,
        kbdint_auth=False,
        connect_timeout=_CONNECT_S,
        login_timeout=_CONNECT_S,
        keepalive_interval=_SILENCE_S,
        keepalive_count_max=3,
        **options,
    )
    return connection


def _known_hosts(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """The files of known host keys that are there. They are always given to asyncssh by name: left to itself, it takes
    `UserKnownHostsFile none` in ~/.ssh/config for the wish that no key be checked.
    """
    users = options.config.get("UserKnownHostsFile", ()) or ["~/.ssh/known_hosts"]
    systems = options.config.get("GlobalKnownHostsFile", ()) or ["/etc/ssh/ssh_known_hosts"]
    named = [*(users if isinstance(users, list) else [users]), *(systems if isinstance(systems, list) else [systems])]
    files = [Path(str(name)).expanduser() for name in named]
    return [str(file) for file in files if file.is_file()]


def _untrusted(
    address: DeviceAddress, options: asyncssh.SSHClientConnectionOptions, known_hosts: Sequence[str], shown: str
) -> DeviceError:
    """An unknown key and one that has changed are two things: the second may be somebody in between."""
    import asyncssh

    host = str(options.host_key_alias or options.host or address.host)
    port = None if options.port == 22 else options.port
    place = host if port is None else f"[{host}]:{port}"
    if known_hosts and asyncssh.match_known_hosts(list(known_hosts), host, "", port)[0]:
        return DeviceError(
            f"{address} has another host key than the one in known_hosts: it was installed anew, or somebody is in "
            f"between. It shows {shown}",
            hint=f"ask who looks after the device; only if the new key is right: ssh-keygen -R '{place}', then "
            f"{_ssh('ssh', address)} once to accept it",
        )
    return DeviceError(
        f"the host key of {address} is not known. It shows {shown}",
        hint=f"compare that with the device's own (ssh-keygen -lf on its /etc/ssh/ssh_host_*_key.pub), and accept it with "
        f"{_ssh('ssh', address)} once",
    )


def _ssh(command: str, address: DeviceAddress) -> str:
    """The command with which a person reaches the device.

    >>> _ssh("ssh", DeviceAddress("orin-3", "lab", 2222))
    'ssh -p 2222 lab@orin-3'
    """
    port = "" if address.port is None else f" -p {address.port}"
    return f"{command}{port} {address.user}{'@' if address.user else ''}{address.host}"

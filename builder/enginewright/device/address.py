"""The address of a device, as a user writes it: ssh://[user@]host[:port]. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from enginewright.errors import UsageError

__all__ = ["DeviceAddress", "parse_address"]

_HINT = "write it as ssh://user@host or ssh://user@host:port"
# Neither may begin with '-': other programs would take it for an option.
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*")


@dataclass(frozen=True)
class DeviceAddress:
    """`user` is "" and `port` None where ~/.ssh/config or SSH's own rules are to say.

    >>> str(DeviceAddress("orin-3", "lab", 2222))
    'ssh://lab@orin-3:2222'
    """

    host: str
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user}{'@' if self.user else ''}{host}{'' if self.port is None else f':{self.port}'}"


def parse_address(text: str) -> DeviceAddress:
    """Raises UsageError where it is no address. A password in it is refused and not repeated.

    >>> parse_address("ssh://lab@[fe80::1]:2222")
    DeviceAddress(host='fe80::1', user='lab', port=2222)
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the device's address cannot be read", hint=_HINT) from None
    if parts.password is not None:
        raise UsageError(
            "the device's address holds a password, and a command line is read by others",
            hint="use a key: ssh-copy-id user@host once, and leave the password out",
        )
    if parts.scheme != "ssh" or not _HOST.fullmatch(host) or port == 0:
        raise UsageError(f"'{text}' is no address of a device", hint=_HINT)
    if parts.username is not None and not _USER.fullmatch(parts.username):
        raise UsageError(f"'{text}' names no user that a device can have", hint=_HINT)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"'{text}' has something behind the host", hint=_HINT)
    return DeviceAddress(host, parts.username or "", port)

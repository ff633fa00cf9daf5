"""Addresses of devices: what is read, and what is refused without repeating a secret."""

from __future__ import annotations

import pytest

from enginewright.device.address import DeviceAddress, parse_address
from enginewright.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://lab@orin-3", DeviceAddress("orin-3", "lab")),
        ("ssh://lab@orin-3:2222", DeviceAddress("orin-3", "lab", 2222)),
        ("ssh://orin-3/", DeviceAddress("orin-3")),
        ("ssh://lab@[fe80::1]:22", DeviceAddress("fe80::1", "lab", 22)),
    ],
)
def test_an_address_is_read_and_written_again(text: str, address: DeviceAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "orin-3",
        "lab@orin-3",
        "http://orin-3",
        "ssh://",
        "ssh://lab@",
        "ssh://orin-3:0",
        "ssh://orin-3:99999",
        "ssh://orin-3/work",
        "ssh://-oProxyCommand=sh",
        "ssh://-x@orin-3",
        "ssh://a b@orin-3",
        "ssh://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_address(text)
    assert "ssh://user@host" in refused.value.hint


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="holds a password") as refused:
        parse_address("ssh://lab:hunter2@orin-3")
    assert "hunter2" not in str(refused.value)

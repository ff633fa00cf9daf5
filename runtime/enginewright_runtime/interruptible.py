"""Ctrl-C and the end of the process while a library computes for minutes and does not return to Python."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

__all__ = ["end_in_order", "ends_in_order", "in_a_thread", "killed_by_signals"]

T = TypeVar("T")


def in_a_thread(work: Callable[[], T], *, cancel: Callable[[], None]) -> T:
    """What `work` gives, computed in a thread of its own; what it raises is raised again.

    Ctrl-C calls `cancel`, waits for the end of `work` and raises KeyboardInterrupt again. A second one ends the
    process.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # raised again below, in the thread that asked
            raised.append(error)
        finally:
            ended.set()

    # Not Thread.join: once interrupted, it takes the thread for ended (Python 3.11, bpo-45274).
    ended = threading.Event()
    thread = threading.Thread(target=run, name="enginewright build", daemon=True)
    with killed_by_signals(signal.SIGTERM):
        try:
            thread.start()
            ended.wait()
        except KeyboardInterrupt:
            with killed_by_signals():
                cancel()
                if thread.ident is not None:
                    ended.wait()
            raise
    if raised:
        raise raised[0]
    return found[0]


@contextmanager
def killed_by_signals(*numbers: signal.Signals) -> Iterator[None]:
    """SIGINT and SIGTERM, or those given, end the process at once, as if Python had no say.

    Python calls its handlers in the main thread, between two steps of Python, so while a library computes there, they
    wait. Only Python's own handler and that of `ends_in_order` are set aside, never one of an application.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers or (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.default_int_handler, end_in_order):
                before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ends_in_order() -> Iterator[None]:
    """SIGTERM, as from systemd or `timeout`, ends what runs as Ctrl-C does: temporary files and processes are cleared
    away, and the exit code is 143. Outside the main thread, and where SIGTERM is handled or ignored, nothing changes.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end_in_order)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_in_order(number: int, frame: FrameType | None) -> None:
    """The handler of `ends_in_order`."""
    raise SystemExit(128 + number)

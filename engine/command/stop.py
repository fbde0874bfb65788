"""SIGTERM ends a command as Ctrl-C does: what has finished is kept, one line says so, and the exit code names it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from engine.errors import EngineDead


class Terminated(KeyboardInterrupt):
    """A SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside it a SIGTERM raises Terminated, in the main thread; outside of that it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the signal's number, as a shell counts: 130 or 143."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def stopped(error: BaseException) -> str:
    """What is said of a run that `error` has stopped."""
    if isinstance(error, KeyboardInterrupt):
        return "terminated" if isinstance(error, Terminated) else "interrupted"
    return f"error: {error}" if isinstance(error, EngineDead) else f"error: cannot write: {error}"


def _raise(*of_the_signal: object) -> NoReturn:
    raise Terminated

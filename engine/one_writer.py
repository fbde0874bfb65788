"""One process writes a file, or the folder of a run, at a time. However it ends, the system gives up its claim."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError


def claim(descriptor: int, name: str) -> None:
    """Keep other processes from claiming an open file for as long as it is open here.

    Raises InputError, with `name` and the process that holds it, where another has it, and OSError where the file
    system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{name}: another process{_holder(os.fstat(descriptor))} is writing it; wait for it, or choose another"
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be locked ({error.strerror})", name) from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Claim a folder, which is made where it is missing, by its file `.lock`. Raises what `claim` raises, InputError
    also where it can be no folder of this user's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error
    with file:
        claim(file.fileno(), str(folder))
        yield


def _holder(of: os.stat_result) -> str:
    """The process that holds the lock, in words; "" where the system does not say."""
    place = f"{os.major(of.st_dev):02x}:{os.minor(of.st_dev):02x}:{of.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    return next((f" ({row[4]})" for row in rows if row[1] == "FLOCK" and row[5] == place), "")

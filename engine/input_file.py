"""Files that are read: regular ones, up to a size, in lines up to a length. A pipe may block, a device never end."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISFIFO, S_ISREG
from typing import BinaryIO

from engine.errors import InputError

MAX_LINE_BYTES = 1 << 25
"""Of a JSONL file's line: a million token ids take a quarter of it."""


def open_regular(path: Path) -> BinaryIO:
    """`path` opened for reading bytes. Raises InputError for what is no regular file, without waiting for it, and
    OSError, FileNotFoundError among them, where it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        raise InputError(f"{path}: no file's name holds a zero byte; correct it") from None
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise InputError(f"{path} is a socket; give a regular file") from None
    mode = os.fstat(descriptor).st_mode
    if S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    kind = "a folder" if S_ISDIR(mode) else "a pipe" if S_ISFIFO(mode) else "a device"
    raise InputError(f"{path} is {kind}; give a regular file")


def read_regular(path: Path, most: int) -> bytes:
    """The content of `path`. Raises InputError for more than `most` bytes, and as `open_regular` does."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} is larger than {most:,} bytes; fetch the file again")
    return content


def read_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end), each bounded, without a byte order mark before the first. Raises
    InputError, naming `name` and the line, for one of more than MAX_LINE_BYTES: what has no line ends has no end."""
    number = 1
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{name}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; split it")
        yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").rstrip(b"\n")
        number += 1

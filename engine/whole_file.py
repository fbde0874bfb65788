"""Files that are whole at every moment, whatever ends the process or the machine."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE


def write_whole(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` beside `path`, ask the disk to keep it, and rename it over `path`, whose mode it takes over.
    While it is written, nobody may read it who may not read `path`."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{token_hex(4)}")
    mode = S_IMODE(path.stat().st_mode) if path.exists() else None
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode & 0o700)
    try:
        with open(descriptor, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            with suppress(PermissionError):  # a file system without modes
                temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

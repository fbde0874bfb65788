"""What a checkpoint is, in 16 hex digits: equal for two folders that answer alike."""

import hashlib
import os
from pathlib import Path

from engine.errors import InputError
from engine.input_file import open_regular

_READ, _READS = 1 << 20, 64
"""Bytes of a piece, and how many pieces of a file are hashed: files up to 64 MiB whole, larger ones here and there."""


def fingerprint(directory: Path) -> str:
    """Of its JSON files, its chat template and its weights, by names, sizes and contents.

    Raises InputError for a file that cannot be read, or is none.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix not in (".json", ".jinja", ".safetensors") or path.is_dir():
            continue
        try:
            with open_regular(path) as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{path.name} {size}\n".encode())
                for at in range(0, size, max(_READ, size // _READS)):
                    file.seek(at)
                    digest.update(file.read(_READ))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; restore it or take it away") from error
    return digest.hexdigest()[:16]

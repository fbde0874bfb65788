"""What a checkpoint is, in 16 hex digits: equal for two folders that answer alike."""

import hashlib
import os
from pathlib import Path

from engine.errors import InputError
from engine.input_file import open_regular
from engine.model.checkpoint import text_folder
from engine.model.gguf_header import is_gguf

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_READ, _READS = 1 << 20, 64
"""Bytes of a piece, and how many pieces of a file are hashed: files up to 64 MiB whole, larger ones here and there."""


def fingerprint(directory: Path, adapter: str | None = None) -> str:
    """Of its JSON files, its chat template and its weights, by names, sizes and contents; of a GGUF file, and where a
    tokenizer.json lies beside it, of what that folder says of text. With the two files of
    an `adapter`, where there is one.

    Raises InputError for a file that cannot be read, or is none.
    """
    digest = hashlib.sha256()
    added = [] if adapter is None else [Path(adapter).expanduser() / name for name in ADAPTER_FILES]
    for path in [*_files(directory), *added]:
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


def _files(directory: Path) -> list[Path]:
    """Those that decide what is answered."""
    alone, folder = is_gguf(directory), text_folder(directory)
    suffixes = (".json", ".jinja") if alone else (".json", ".jinja", ".safetensors")
    listed = [] if folder is None else [p for p in folder.iterdir() if p.suffix in suffixes and not p.is_dir()]
    return sorted([directory, *listed] if alone else listed)

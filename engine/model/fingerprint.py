"""What a checkpoint is, in 16 hex digits: equal for two folders that answer alike."""

from __future__ import annotations

import hashlib
from pathlib import Path

_READ, _READS = 1 << 20, 64
"""Bytes of a piece, and how many pieces of a file are hashed: files up to 64 MiB whole, larger ones here and there."""


def fingerprint(directory: Path) -> str:
    """Of its JSON files, its chat template and its weights, by names, sizes and contents."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for at in range(0, size, max(_READ, size // _READS)):
                    file.seek(at)
                    digest.update(file.read(_READ))
    return digest.hexdigest()[:16]

"""The files of a GPU day: what it leaves in its folder, how much may come back, where a machine keeps the rest."""

import tempfile
from pathlib import Path

RESULTS, LOG, STATE, GEMM_TABLE = "results.jsonl", "log.txt", "state.json", "gemm_choices.json"
FILES = (RESULTS, LOG, STATE, GEMM_TABLE)
"""What a day leaves in its folder."""
MOST_FILES, MOST_BYTES = 8, 16 << 20
"""What may come back from a machine that is lent."""
KEPT = Path(tempfile.gettempdir()) / "s1-gpu-day"
"""Where a machine keeps what its next call can use."""
CACHE = "triton"
"""Triton's cache in that folder, and in the kit."""

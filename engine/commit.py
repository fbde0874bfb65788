"""Which commit of this project runs."""

import os
import subprocess
from functools import partial
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def commit() -> str | None:
    """The checkout's short commit, with `+` where files differ from it; S1_COMMIT, where that is set: for copies
    without the history. None for an installed copy, whatever repository it lies in."""
    if given := os.environ.get("S1_COMMIT"):
        return given
    if not (_ROOT / ".git").exists():
        return None
    git = partial(subprocess.check_output, cwd=_ROOT, stderr=subprocess.DEVNULL, text=True)
    try:
        head = git(["git", "rev-parse", "--short", "HEAD"]).strip()
        return head + ("+" if git(["git", "status", "--porcelain"]).strip() else "")
    except (OSError, subprocess.CalledProcessError):  # no git here, or not our repository
        return None

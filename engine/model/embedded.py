"""The checkpoint that comes with the engine, s1-nano."""

from pathlib import Path

_ENGINE = Path(__file__).resolve().parents[1]
_PLACES = (_ENGINE / "s1-nano", _ENGINE.parent / "models" / "s1-nano")

EMBEDDED = next(filter(Path.is_dir, _PLACES), _PLACES[-1])
"""Its folder: inside the package where that is installed, in `models/` in a checkout."""

NAMES = ("s1-nano", "models/s1-nano")
"""What stands for it where no such folder is: its name in output lines, and its place in a checkout."""

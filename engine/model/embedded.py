"""The checkpoint that comes with the engine, s1-nano."""

from pathlib import Path

_ENGINE = Path(__file__).resolve().parents[1]
_PLACES = (_ENGINE / "s1-nano", _ENGINE.parent / "models" / "s1-nano")

EMBEDDED = next(filter(Path.is_dir, _PLACES), _PLACES[-1])
"""Its folder: inside the package where that is installed, in `models/` in a checkout."""

NAMES = ("s1-nano", "models/s1-nano")
"""What stands for it where no such folder is: its name in output lines, and its place in a checkout."""


def folder_of(name: str) -> Path:
    """The path that `name` is, or s1-nano's folder by its name where no folder here has it."""
    path = Path(name).expanduser()
    return EMBEDDED if name in NAMES and not path.is_dir() and EMBEDDED.is_dir() else path

"""The files that data.train and data.heldout name: paths, patterns, data sets on the hub."""

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from engine.hub_data import PREFIX, local_files
from engine.input_file import open_regular
from train.errors import TrainingError

_WAYS = f"give a file, a pattern, or {PREFIX}OWNER/NAME for a data set on the hub"


@dataclass(frozen=True)
class DataFile:
    """A file of records. `name` is what errors and metrics call it: the path, or for a file on the hub a name that is
    the same on every machine. `sha256` is of what is read now, not of what is there when the run ends."""

    name: str
    path: Path
    sha256: str

    @classmethod
    def opened(cls, name: str, path: Path) -> "DataFile":
        """Raises InputError for what is no regular file."""
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # of a BinaryIO that is a file
            return cls(name, path, digest.hexdigest())


def data_files(named: Sequence[str], setting: str) -> tuple[DataFile, ...]:
    """What `named`, the value of `setting`, stands for, in its order; a pattern's files are sorted. Of a data set on
    the hub whose file names tell splits, data.heldout reads the validation split and data.train the training split.

    Raises TrainingError naming setting and value where there is no such file.
    """
    return tuple(file for name in named for file in _files(name, setting))


def refuse_repeats(files: Mapping[str, Sequence[DataFile]]) -> None:
    """Raises TrainingError where two of `files`, by the settings that name them, hold the same bytes."""
    seen: dict[str, str] = {}
    for setting, each in files.items():
        for file in each:
            here = f"{setting} {file.name}"
            if file.sha256 in seen:
                raise TrainingError(f"{seen[file.sha256]} and {here} are the same file; take one of them out")
            seen[file.sha256] = here


def _files(name: str, setting: str) -> Iterator[DataFile]:
    path = Path(name)
    if name.startswith(PREFIX):
        try:
            found = local_files(name, "validation" if setting == "data.heldout" else "train")
        except InputError as error:
            raise TrainingError(f"{setting}: {error}") from error
        yield from (DataFile.opened(name if name.endswith(f"/{f.name}") else f"{name}/{f.name}", f) for f in found)
    elif path.is_dir():
        raise TrainingError(f"{setting}: {name} is a folder; name its files, {path}/*.jsonl or {path}/*.parquet")
    elif path.exists():
        yield DataFile.opened(name, path)
    elif glob.has_magic(name):
        matches = sorted(filter(Path.is_file, map(Path, glob.glob(name, recursive=True))))
        if not matches:
            raise TrainingError(f"{setting}: the pattern {name} matches no file; {_WAYS}")
        yield from (DataFile.opened(str(match), match) for match in matches)
    else:
        meant = f"; a data set on the hub is written {PREFIX}{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
        raise TrainingError(f"{setting}: data file {name} does not exist{meant or f'; {_WAYS}'}")

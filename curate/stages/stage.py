"""A stage: what it depends on, what it writes, and when it has to run again.

Each stage owns the folder `<run>/<stage>/`: its tables as Parquet and `manifest.json`. Its key is a hash of its
version, its part of the configuration, the content of the tables it reads and the files it reads. While the key stands
the stage is not run again. A folder appears whole, by a rename, or not at all. What a stage does is in
`curate.stages.work`; nothing slow is imported here, so that a run where nothing has changed ends at once.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from curate.config import Config
from curate.progress import Bars
from curate.stages.executor import Executor
from curate.table_io import file_hash
from engine.errors import InputError, first_line, is_number
from engine.json_file import read_object
from engine.model.fingerprint import fingerprint

if TYPE_CHECKING:
    import polars as pl

Counts = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """What a stage has made: tables by name, other files by name, and what is worth counting."""

    tables: "dict[str, pl.DataFrame]"
    counts: Counts
    files: dict[str, bytes] | None = None


@dataclass(frozen=True)
class Context:
    """What a running stage may use."""

    config: Config
    executor: Executor
    bars: Bars
    retry_errors: bool = False
    """Ask again for responses that ended in an error."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def store_path(self) -> Path:
        """The response store, the unit of resume of everything that asks a model."""
        return self.folder / "responses.sqlite"

    @property
    def private(self) -> list[str]:
        """Labels of the private sources among those that were collected, whatever the configuration now says. Raises
        InputError where `collect` has not written them."""
        try:
            return list(read_object(self.folder / "collect" / "manifest.json")["counts"]["private"])
        except (InputError, LookupError, TypeError) as error:
            raise InputError(f"{self.folder}: collect does not say what is private; run `--stage collect`") from error

    def table(self, stage: str, name: str) -> "pl.DataFrame":
        """A table that an earlier stage wrote. Raises InputError where it is not there."""
        import polars as pl  # slow, and what reads no table does without

        path = self.folder / stage / f"{name}.parquet"
        if not path.is_file():
            raise InputError(f"{path} is missing; run `--stage {stage}` first")
        try:
            return pl.read_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}); run `--stage {stage}` again") from error


def seconds_of(run: Path) -> dict[str, float]:
    """Wall seconds of each stage's last run. No part of a manifest: they differ from run to run."""
    try:
        times = read_object(run / "seconds.json")
    except InputError:  # none yet, or damaged: no stage needs them
        return {}
    return {stage: time for stage, time in times.items() if is_number(time, 0, math.inf)}


def content_hash(path: Path) -> str:
    """Of a file, whole; of a checkpoint, which may be of any size, its fingerprint."""
    return fingerprint(path) if path.is_dir() or path.suffix == ".gguf" else file_hash(path)


@dataclass(frozen=True)
class Stage:
    """A stage. `version` changes when its code gives other results for the same input.

    Attributes:
        inputs: stages whose tables it reads.
        section: the part of the configuration that its result depends on, as plain values.
        files: outside files that it reads, and checkpoints: folders or GGUF files.
        ready: raises InputError where it could not run for want of what stands outside the configuration.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    section: Callable[[Config], Any]
    files: Callable[[Config], list[Path]] = lambda config: []
    ready: Callable[[Config], None] = lambda config: None

    def settings(self, config: Config) -> dict[str, Any]:
        """What of the key the configuration and the code decide."""
        section = json.dumps(msgspec.to_builtins(self.section(config)), sort_keys=True)
        config_hash = hashlib.sha256(section.encode()).hexdigest()
        return {"stage": self.name, "version": self.version, "config_hash": config_hash}

    def key(self, config: Config) -> tuple[str, dict[str, Any]]:
        """The key and what it was made of. Raises InputError where an input was never written."""
        inputs = {}
        for name in self.inputs:
            path = Path(config.run) / name / "manifest.json"
            if not path.is_file():
                raise InputError(f"stage {self.name} reads what stage {name} writes; run `--stage {name}` first")
            try:
                inputs[name] = {f: entry["sha256"] for f, entry in read_object(path)["outputs"].items()}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(f"{path} is damaged; run `--stage {name}` again") from error
        parts = {
            **self.settings(config),
            "inputs": inputs,
            "files": [[path.name if path.is_file() else "", content_hash(path)] for path in self.files(config)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), parts

    def current(self, config: Config) -> bool:
        """Whether the folder holds the result for the present key, whole."""
        folder = Path(config.run) / self.name
        try:
            manifest = read_object(folder / "manifest.json")
            key, outputs = manifest["key"], {name: entry["sha256"] for name, entry in manifest["outputs"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # torn, or no manifest of ours
            return False
        return (
            all((folder / name).is_file() and file_hash(folder / name) == sha256 for name, sha256 in outputs.items())
            and key == self.key(config)[0]
        )

    def counts(self, config: Config) -> Counts:
        """What its manifest counts. Raises InputError where it cannot be read."""
        return dict(read_object(Path(config.run) / self.name / "manifest.json")["counts"])

    def write(self, config: Config, output: Output) -> dict[str, Any]:
        """Puts the output in place by one rename; returns the manifest."""
        from polars.exceptions import PolarsError  # slow, and a stage that stands writes nothing

        run = Path(config.run)
        run.mkdir(parents=True, exist_ok=True)
        key, parts = self.key(config)
        work = Path(tempfile.mkdtemp(prefix=f".{self.name}.", dir=run))
        try:
            outputs = {}
            for name, table in output.tables.items():
                try:
                    table.write_parquet(work / f"{name}.parquet", compression="zstd", statistics=False)
                except PolarsError as error:  # no OSError where the disk is full
                    raise OSError(
                        f"{run / self.name / name}.parquet cannot be written ({first_line(error)}); make room and run "
                        "the same command: earlier stages and what was answered are kept"
                    ) from error
                outputs[f"{name}.parquet"] = {"rows": table.height, "sha256": file_hash(work / f"{name}.parquet")}
            for name, content in (output.files or {}).items():
                (work / name).write_bytes(content)
                outputs[name] = {"sha256": file_hash(work / name)}
            manifest = {"key": key, **parts, "outputs": outputs, "counts": output.counts}
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
            _sync(work)
            _replace(work, run / self.name)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return manifest


def _sync(folder: Path) -> None:
    """To the disk before the rename: after a power cut the folder is whole or absent."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(new: Path, place: Path) -> None:
    # A folder cannot be renamed over a full one: between the two renames it is absent, which only means rerunning.
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.old.", dir=place.parent) as old:
        if place.exists():
            os.rename(place, Path(old) / "stage")
        os.rename(new, place)

"""Files of data sets on the hub: `hub:OWNER/NAME` and `hub:OWNER/NAME/FILE`, through huggingface_hub and its cache."""

import glob
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from engine.errors import InputError, first_line, refuse, shown
from engine.rows_file import KINDS

PREFIX = "hub:"
_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([^/].*))?")
_SPLITS = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing", "eval", "evaluation"))
"""Words that tell a split in a file's name, those together that mean the same; the hub's own viewer reads these."""
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(?:-[0-9a-f]{16})?\.\w+")
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def local_files(name: str, split: str | None = None, revision: str | None = None) -> list[Path]:
    """The local paths of data files on the hub, sorted by their names there. The hub is asked which they are; what its
    cache has is not fetched again, and without a network the cache alone answers.

    Args:
        name: `hub:OWNER/NAME/FILE`, or `hub:OWNER/NAME[/FOLDER]` for all .csv, .json, .jsonl and .parquet files there;
            OWNER/NAME is a data set.
        split: "train", "validation", "test" or another; its files alone, unless no file's name tells a split.
        revision: branch, tag or commit; None: the newest of the main branch, which may be another one tomorrow.

    Raises InputError, naming `name`, for another form, for what is not there or cannot be fetched, for a split of which
    there is no file, and for files in several folders or formats, or of several names for one split, which may be the
    same rows more than once.
    """
    form = _FORM.fullmatch(name)
    if form is None:
        raise InputError(f"{shown(name)} is not hub:OWNER/NAME or hub:OWNER/NAME/FILE")
    repository, inside = form[1], (form[2] or "").rstrip("/")
    # Only here, where its second of imports buys something.
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if Path(inside).suffix.lower() in KINDS:
            return [Path(hf_hub_download(repository, inside, repo_type="dataset", revision=revision))]
        chosen = _chosen(name, _listed(repository, inside, revision), split)
        patterns = [glob.escape(file) for file in chosen]
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns)
        return [Path(folder, file) for file in chosen]
    except InputError:
        raise
    except Exception as error:  # besides the hub's own, those of the HTTP library that this version of it has
        raise InputError(
            f"{name} cannot be fetched ({first_line(error)}); check the name, log in with `hf auth login`, or give the "
            "path of a file"
        ) from error


def _listed(repository: str, folder: str, revision: str | None) -> list[str]:
    """Names of the data files below `folder` of a data set, sorted; of those in the cache where the hub cannot be
    asked."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = [
            file.rfilename for file in HfApi().dataset_info(repository, revision=revision, timeout=10).siblings or ()
        ]
    except Exception as error:
        try:  # no pattern: what was fetched, be it a part
            root = snapshot_download(
                repository, repo_type="dataset", revision=revision, local_files_only=True, allow_patterns=[]
            )
        except OSError:
            raise error from None
        names = [path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file()]
    below = f"{folder}/" if folder else ""
    data = (name for name in names if Path(name).suffix.lower() in KINDS and Path(name).name not in _NO_DATA)
    return sorted(name for name in data if name.startswith(below))


def _chosen(name: str, files: list[str], split: str | None) -> list[str]:
    """Those of `files` that are of `split`. Raises InputError as `local_files` does."""
    chosen, stems = files, set[str]()
    if split is not None:
        meant = next((words for words in _SPLITS if split in words), (split,))
        if any(_tells(file, words) for file in files for words in _SPLITS) or any(map(_SHARD.fullmatch, files)):
            chosen = [file for file in files if _tells(file, meant)]
            stems = {_stem(file) for file in chosen if _tells(Path(file).name, meant)}
    there = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    folders = sorted({file.rpartition("/")[0] or "/" for file in chosen})
    kinds = sorted({Path(file).suffix for file in chosen})
    shards = Counter(shard.groups() for shard in map(_SHARD.fullmatch, chosen) if shard is not None)
    torn = next((f"{count} of {int(total)}" for (_, total), count in shards.items() if count != int(total)), None)
    refuse(
        (not files, f"{name} has no {', '.join(KINDS)} file; name a data set that has one"),
        (not chosen, f"{name} has no file of the split {split!r}; name one of its files, {name}/FILE: {there}"),
        (
            len(folders) > 1,
            f"{name} has data in several folders ({', '.join(folders)}); name one, {name}/FOLDER",
        ),
        (
            len(kinds) > 1,
            f"{name} has data in several formats ({', '.join(kinds)}); name one file, {name}/FILE: {there}",
        ),
        (
            len(stems) > 1,
            f"{name} has several sets of files of the split {split!r} ({', '.join(sorted(stems))}); name the files of "
            f"one, {name}/FILE: {there}",
        ),
        (
            torn,
            f"{name}: {torn} parts are there, and the hub cannot be asked for the others; fetch them when it can be",
        ),
    )
    return chosen


def _stem(file: str) -> str:
    """The name that the parts of one set of files share: without extension, place in a row, and number."""
    shard = _SHARD.fullmatch(Path(file).name)
    return re.sub(r"[-_.]?\d+$", "", shard[1] if shard is not None else Path(file).stem)


def _tells(file: str, words: Iterable[str]) -> bool:
    """Whether one of `words` stands in a file's name, with no letter before or behind it."""
    return re.search(rf"(?<![a-z])({'|'.join(map(re.escape, words))})(?![a-z])", file.lower()) is not None

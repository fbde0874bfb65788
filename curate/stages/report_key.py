"""Whether the report stands: it is written again where a stage, its own settings or its code have changed."""

import hashlib
import json
from pathlib import Path

import msgspec

from curate.config import Config
from curate.stages.pipeline import stages
from curate.table_io import file_hash
from engine.json_file import read_object
from engine.whole_file import write_whole


def report_key(config: Config) -> str:
    """Hash of what the report is made of: what the stages have left, the settings that it shows, and its code."""
    run, code = Path(config.run), Path(__file__).parent
    left = [run / stage.name / "manifest.json" for stage in stages(config)] + [run / "seconds.json"]
    made_by = [*code.glob("*.py"), *code.glob("*.jinja"), *code.parent.glob("page*")]
    hashes = [
        [str(path.parent.name), path.name, file_hash(path)] for path in [*left, *sorted(made_by)] if path.is_file()
    ]
    shown = msgspec.to_builtins([config.report, config.seed, [source.label for source in config.collect.sources]])
    return hashlib.sha256(json.dumps([hashes, shown]).encode()).hexdigest()


def report_stands(config: Config) -> bool:
    """Whether the report's folder holds all that was written, for the present key."""
    folder = Path(config.run) / "report"
    try:
        manifest = read_object(folder / "manifest.json")
        files = dict(manifest["outputs"])
        return manifest["key"] == report_key(config) and all(file_hash(folder / name) == h for name, h in files.items())
    except (OSError, ValueError, LookupError, TypeError):  # torn, or files are missing
        return False


def mark_report(config: Config) -> None:
    """Puts down what the report was made of, beside it."""
    folder = Path(config.run) / "report"
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "manifest.json")
    outputs = {path.name: file_hash(path) for path in files}
    manifest = {"key": report_key(config), "outputs": outputs}
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")

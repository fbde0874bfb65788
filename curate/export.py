"""The data set of a finished curation run, as the hub has data sets: one Parquet file and its card.

    python -m curate.export runs/offline_2k
    python -m curate.export runs/offline_2k --name "2,000 puzzles" --push-to-hub OWNER/NAME

Questions of private sources (GPQA) are left out and counted. `train.sft` reads the file by path, or by hub:OWNER/NAME.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
import tyro
from rich.console import Console

from curate.config import load_config
from curate.data_card import FILE, Exported, Manifests, data_card
from curate.progress import Bars
from curate.records import counts_of
from curate.stages.executor import local
from curate.stages.pipeline import stages
from curate.stages.stage import Context
from engine.command.flags import read_flags
from engine.errors import InputError, refuse, tell
from engine.hub_card import CARD, write_card
from engine.hub_upload import check_target, push_folder
from engine.json_file import read_object
from engine.whole_file import write_whole


@dataclass(frozen=True)
class Arguments:
    """A run, and where its data set goes."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run, or its configuration (YAML)."""
    out: Path | None = None
    """Folder of the data set; None: dataset/ in the run's folder."""
    name: str | None = None
    """Title of the card; None: the run's folder."""
    push_to_hub: str | None = None
    """OWNER/NAME: upload it as this data set, to a private repository."""
    public: bool = False
    """Make that repository one that everybody sees."""


def read_run(path: Path) -> tuple[Context, Manifests]:
    """A finished run and what its stages wrote down. Raises InputError where a stage is missing, older than one that it
    reads, or made with another configuration."""
    file = path if path.is_file() else path / "config.yaml"
    if not file.is_file():
        raise InputError(f"{file} is missing; give the configuration of the run: python -m curate.export CONFIG.yaml")
    config = load_config(file)
    if path.is_dir():
        config = msgspec.structs.replace(config, run=str(path))
    refuse((config.attempt is None, f"{file}: the run ends before `select`; give trace and attempt, and run it"))
    again = f"finish it first: python -m curate.run {file}"
    manifests: Manifests = {}
    settings_of = {stage.name: stage.settings(config) for stage in stages(config)}
    for stage in stages(config):
        place = Path(config.run) / stage.name / "manifest.json"
        if not place.is_file():
            raise InputError(f"{config.run}: stage {stage.name} has not run; {again}")
        manifests[stage.name] = read_object(place)
    try:
        for name, settings in settings_of.items():
            made = {part: manifests[name][part] for part in settings}
            refuse((made != settings, f"{config.run}: stage {name} was made with another configuration; {again}"))
        for name, manifest in manifests.items():
            for source, read in manifest["inputs"].items():
                written = {file: entry["sha256"] for file, entry in manifests[source]["outputs"].items()}
                refuse((written != read, f"{config.run}: stage {source} is newer than {name}, which reads it; {again}"))
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{config.run}: a manifest is damaged; {again}") from error
    return Context(config, local, Bars(Console(quiet=True))), manifests


def exported(context: Context) -> Exported:
    """The selected rows that `format` keeps, where there is one."""
    config = context.config
    private = context.private
    repositories = {source.label: source.info.repo or source.label for source in config.collect.sources}
    chosen = context.table("select", "selection").sort("order").select("qid")
    if config.format is not None:
        kept = context.table("format", "decisions").filter("keep").select("qid")
        chosen = chosen.join(kept, on="qid", how="semi", maintain_order="left")
    rows = chosen.join(
        context.table("collect", "questions").unique("qid", keep="first", maintain_order=True),
        on="qid",
        maintain_order="left",
    )
    for stage, name, columns in (
        ("trace", "traces", ("thinking", "attempt")),
        ("domain", "domains", ("code", "title")),
        ("grade", "trace_grades", ("verdict",)),
    ):
        table = context.table(stage, name).select("qid", *columns)
        rows = rows.join(table, on="qid", how="left", maintain_order="left")
    public = rows.filter(~pl.col("source").is_in(private))
    whole = public.filter(pl.all_horizontal(pl.col("thinking", "attempt").fill_null("").str.strip_chars() != ""))
    return Exported(
        whole.select(
            pl.col("qid").alias("id"),
            "question",
            "solution",
            "cot_type",
            pl.col("source").replace(repositories).alias("source_type"),
            pl.col("meta").alias("metadata"),
            pl.lit(None, pl.String).alias("cot"),
            pl.concat_list("thinking").alias("thinking_trajectories"),
            "attempt",
            "source",
            pl.format("{} {}", "code", "title").alias("domain"),
            "licence",
            pl.col("revision").alias("version"),
            (pl.col("verdict") == "yes").fill_null(False).alias("correct"),
        ),
        counts_of(rows.filter(pl.col("source").is_in(private)), "source"),
        public.height - whole.height,
    )


def _check_place(out: Path, run: Path) -> None:
    """Raises InputError where `out` is the run's folder or holds what this command does not write."""
    where = f"--out {out}"
    refuse(
        (out.resolve() == run.resolve(), f"{where} is the folder of the run; give a folder for the data set alone"),
        (out.exists() and not out.is_dir(), f"{where} is no folder; give another"),
    )
    ours = {out / CARD, out / FILE}
    other = next((path for path in out.rglob("*") if path not in ours and not path.is_dir()), None)
    if other is not None:
        raise InputError(f"{where} holds {other.relative_to(out)}, which is not of a data set; give an empty folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the data set; returns the exit code: 0, 1 where disk or upload failed, 2 for what cannot be used."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = read_flags(Arguments, words, "python -m curate.export", __doc__)
        check_target(arguments.push_to_hub, arguments.public)
        context, manifests = read_run(arguments.run)
        found = exported(context)
        out = arguments.out or context.folder / "dataset"
        _check_place(out, context.folder)
        refuse((found.rows.is_empty(), f"{context.folder}: no selected question may be published; nothing is written"))
        table = io.BytesIO()
        found.rows.drop("version", "correct").write_parquet(table, compression="zstd")
        (out / FILE).parent.mkdir(parents=True, exist_ok=True)
        write_whole(out / FILE, table.getvalue())
        title = arguments.name or context.folder.resolve().name
        write_card(out, data_card(context.config, manifests, found, title))
    except (InputError, OSError) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    for source, count in found.private.items():
        print(f"{count:,} questions of {source} are left out: the source is private", file=sys.stderr)
    if found.empty:
        print(f"{found.empty:,} questions are left out: their trace or answer is empty", file=sys.stderr)
    print(f"wrote {found.rows.height:,} questions to {out}", file=sys.stderr)
    if arguments.push_to_hub is None:
        return 0
    command = ["python", "-m", "curate.export", *words]
    return push_folder(out, arguments.push_to_hub, "dataset", arguments.public, command, only=(CARD, FILE))


if __name__ == "__main__":
    sys.exit(main())

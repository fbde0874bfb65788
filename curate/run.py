"""From questions to a training file.

    python -m curate.run curate/recipes/offline_2k.yaml
    python -m curate.run curate/recipes/offline_2k.yaml --stage dedupe --stage decontaminate

Stages in order: collect, dedupe, decontaminate, trace, quality, attempt, grade, difficulty, domain, select, format,
report. Where nothing has changed a stage, or the report, is not made again; `--stage` runs those named, with what the
earlier ones left.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import msgspec
import tyro
import yaml
from rich.console import Console

from curate.config import Config, load_config
from curate.progress import Bars
from curate.stages.executor import RayData, local
from curate.stages.pipeline import ORDER, stages
from curate.stages.report_key import mark_report, report_stands
from curate.stages.shortfall import shortfall
from curate.stages.stage import Context, Stage, seconds_of
from engine.command.flags import read_flags
from engine.command.stop import exit_code, terminable
from engine.errors import EngineDead, InputError, refuse, tell
from engine.one_writer import sole_writer
from engine.whole_file import write_whole

RETRIED = ("trace", "attempt")
"""Stages that --retry-errors runs anew."""


@dataclass(frozen=True)
class Arguments:
    """A configuration, and which of its stages run."""

    config: tyro.conf.Positional[Path]
    """Configuration (YAML); see curate/config.py and curate/recipes."""
    stage: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Run these stages only; may be given several times."""
    force: bool = False
    """Run stages although nothing has changed."""
    retry_errors: bool = False
    """Ask again for responses that ended in an error; runs trace and attempt anew."""


def chosen(config: Config, names: tuple[str, ...]) -> tuple[tuple[Stage, ...], bool]:
    """The stages to run and whether to write the report. Raises InputError for a stage there is not."""
    available = stages(config)
    if not names:
        return available, True
    for name in names:
        refuse(
            (
                name not in (*ORDER, "report"),
                f"--stage {name}: there is no such stage; there are {', '.join(ORDER)}, report",
            ),
            (
                name not in ("report", *(stage.name for stage in available)),
                f"--stage {name}: this configuration ends before it; give trace, attempt and format",
            ),
        )
    return tuple(stage for stage in available if stage.name in names), "report" in names


def run(config: Config, arguments: Arguments, console: Console) -> None:
    """Runs the stages. Raises InputError for what cannot be used."""
    executor = local if config.ray is None else RayData(config.ray.address, config.ray.batch_rows).map
    context = Context(config, executor, Bars(console), arguments.retry_errors)
    wanted, report = chosen(config, arguments.stage)
    for stage in wanted:
        stage.files(config)  # a tokenizer that is not there is told before a night's traces, not after
    again = {stage.name for stage in wanted if arguments.force or (arguments.retry_errors and stage.name in RETRIED)}
    standing = tuple(takewhile(lambda stage: stage.name not in again and stage.current(config), wanted))
    for stage in wanted[len(standing) :]:  # what stands asks nobody, and needs no key
        stage.ready(config)
    for stage in wanted:
        if stage in standing or (stage.name not in again and stage.current(config)):
            console.print(f"{stage.name:>13}  unchanged", highlight=False)
        else:
            _perform(stage, context, console)
    kept = context.folder / "config.yaml"
    theirs = kept.exists() and arguments.config.exists() and kept.samefile(arguments.config)
    if not theirs and (not arguments.stage or all(stage.current(config) for stage in stages(config))):
        _keep(config, kept)
    if report:
        _report(context, console, bool(arguments.stage) or arguments.force)
    for stage in wanted:
        if said := shortfall(stage.name, stage.counts(config)):
            console.print(f"{'warning':>13}  {said}", style="bold yellow", markup=False, soft_wrap=True)


def _keep(config: Config, file: Path) -> None:
    """Write the configuration, with every default, that what is there was made with: `curate.export` reads it."""
    resolved = yaml.dump(msgspec.to_builtins(config), Dumper=_Dumper, sort_keys=False).encode()
    if not file.is_file() or file.read_bytes() != resolved:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, resolved)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that begins as numbers do is quoted: configurations take 1e5, too, for one."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """The text, plain or in quotes."""
        quoted = text[:1] in {*"-+.0123456789"}
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _perform(stage: Stage, context: Context, console: Console) -> None:
    from curate.stages.work import WORK  # brings polars, which a run where nothing has changed does without

    stage.key(context.config)  # what it reads must be there before it starts
    started = time.perf_counter()
    counts = stage.write(context.config, WORK[stage.name](context))["counts"]
    seconds = time.perf_counter() - started
    times = seconds_of(context.folder) | {stage.name: round(seconds, 1)}
    write_whole(context.folder / "seconds.json", json.dumps(times, indent=1) + "\n")
    kept = f", {counts['kept']:,} kept" if "kept" in counts else ""
    console.print(f"{stage.name:>13}  {counts['rows']:,} rows{kept}  {seconds:,.1f} s", highlight=False)


def _report(context: Context, console: Console, again: bool) -> None:
    if not again and report_stands(context.config):
        console.print(f"{'report':>13}  unchanged", highlight=False)
        return
    from curate.stages.page import write_report  # brings polars

    started = time.perf_counter()
    path = write_report(context)
    mark_report(context.config)
    console.print(f"{'report':>13}  {path}  {time.perf_counter() - started:,.1f} s", highlight=False, markup=False)


def main() -> int:
    """Run the stages; returns the exit code: 0 done, 1 the engine, a disk or an endpoint failed, 2 what cannot be used,
    130 and 143 interrupted and terminated."""
    console = Console(stderr=True)
    try:
        arguments = read_flags(Arguments, None, "python -m curate.run", __doc__)
        config = load_config(arguments.config)
        with terminable(), sole_writer(Path(config.run)):
            run(config, arguments, console)
    except (InputError, EngineDead, OSError) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    except MemoryError:
        print("error: out of memory; the same command goes on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return exit_code(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())

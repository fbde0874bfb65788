"""A command line of `engine.generate`, run: its requests checked, answered, and shown or written."""

import io
import queue
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial

from rich.console import Console

from engine.build import context_limit, refuse_scorer, resolve_device
from engine.command.append_log import Displaced
from engine.command.job import Job
from engine.command.jsonl import InputLine, Origin, output_record, repeated_ids
from engine.command.results import ResultsFile
from engine.command.stop import exit_code, stopped
from engine.command.view import StreamView, Totals, progress_bar
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import EngineDead, InputError, tell
from engine.handle import Handle
from engine.model.config import ModelConfig
from engine.prepare import Preparer
from engine.replicas.blocking import ReplicatedEngine
from engine.schedule.sequence import Prepared
from engine.text.chat_template import content_text
from engine.text.tokenizer import Tokenizer
from engine.timeline import Timeline


def run(job: Job, timeline: Timeline) -> int:
    """Answer what the command line asks; returns the exit code. Raises InputError for bad input."""
    arguments, config, lines = job.arguments, job.config, job.lines
    if repeated := repeated_ids(lines):
        tell(repeated, "warning")
    resolve_device(config.device)
    tokenizer = Tokenizer.load(job.directory)
    timeline.lap("tokenizer")
    model = ModelConfig.load(job.directory, config.dtype, config.device)
    refuse_scorer(model, config.model)
    context = context_limit(config, model)
    prepared = _prepare(lines, config, tokenizer, context)
    timeline.lap("requests")
    results = None if arguments.output is None else ResultsFile(arguments.output)
    with ExitStack() as held:
        if results is not None:
            held.callback(results.release)
            for warning in results.prepare(lines, job.origin, arguments.resume, arguments.overwrite):
                tell(warning, "warning")
            if len(results.finished) == len(lines):
                print(f"nothing to do: {results.name} holds all {len(lines)} requests", file=sys.stderr)
                results.open()
                results.close(order=True)
                return 0
        if arguments.data_parallel_size > 1 and results is not None:
            several = held.enter_context(ReplicatedEngine(config, tokenizer, arguments.data_parallel_size))
            return _write(several, lines, _begun(several, lines, prepared, context), results, job.origin)
        engine = held.enter_context(Engine(config=config, tokenizer=tokenizer, timeline=timeline))
        prepared = _begun(engine, lines, prepared, context)
        if arguments.timeline:
            held.enter_context(_told(engine, timeline))
        if results is None:
            return _show(engine, lines, prepared)
        return _write(engine, lines, prepared, results, job.origin)


def _begun(
    engine: Engine | ReplicatedEngine, lines: Sequence[InputLine], prepared: list[Prepared], context: int
) -> list[Prepared]:
    """The requests, checked again where memory holds less than the `context` that they were checked for."""
    print(*engine.start_lines(), sep="\n", file=sys.stderr)
    return prepared if engine.context == context else _prepare(lines, engine.config, engine.tokenizer, engine.context)


@contextmanager
def _told(engine: Engine, timeline: Timeline) -> Iterator[None]:
    """Behind what runs inside: where the start-up went, to the first token, and the most memory it took."""
    timeline.lap("start lines, requests again")
    with engine.clocked() as steps:
        yield
    if steps:  # a prompt's last prefill gives the first token, and the step behind it is the first that decodes
        first = next((i for i, step in enumerate(steps) if step.decodes), len(steps)) - 1
        timeline.lap("first prefill and token", at=steps[max(first, 0)].ended)
    print(*timeline.lines(), engine.memory_line(), sep="\n", file=sys.stderr)


def _prepare(lines: Sequence[InputLine], config: EngineConfig, tokenizer: Tokenizer, context: int) -> list[Prepared]:
    """Check every request. Raises InputError naming the line of the first that cannot run."""
    preparer = Preparer(tokenizer, config.thinking_format, context, config.max_samples, config.max_logprobs)
    prepared = []
    for line in lines:
        try:
            prepared.append(preparer.prepare(line.prompt, line.params))
        except InputError as error:
            raise InputError(f"{line.where}: {error}") from error
    return prepared


def _show(engine: Engine, lines: Sequence[InputLine], prepared: Sequence[Prepared]) -> int:
    """All requests run together; the first that is not finished is shown as it is written, the others wait for it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character
    view = StreamView(Console(highlight=False), len(lines))
    totals, start = Totals(), time.monotonic()
    handles: list[Handle] = []
    for line in lines:
        while len(handles) < len(lines) and len(handles) - line.index < engine.config.max_waiting:
            handles.append(engine.submit_prepared(prepared[len(handles)], place=len(handles)))
        view.question(line.index + 1, _question(line, engine.tokenizer))
        for delta in handles[line.index]:
            if delta.index == 0:
                view.delta(delta)
        output = handles[line.index].result()
        for sample in output.outputs[1:]:
            view.sample(sample.index, sample.text)
        view.end(output)
        totals.add(output)
    print(totals.line(time.monotonic() - start, engine.stats()), file=sys.stderr)
    return 1 if totals.errors else 0


def _write(
    engine: Engine | ReplicatedEngine,
    lines: Sequence[InputLine],
    prepared: Sequence[Prepared],
    results: ResultsFile,
    origin: Origin,
) -> int:
    """Requests are written as they finish, and put into input order once all have."""
    todo = [line for line in lines if line.index not in results.finished]
    finished: queue.SimpleQueue[tuple[InputLine, Handle]] = queue.SimpleQueue()
    totals, start, submitted = Totals(), time.monotonic(), 0
    results.open()
    try:
        with closing(engine), progress_bar(Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(lines), completed=len(lines) - len(todo), rate="")
            while totals.requests < len(todo):
                while submitted < len(todo) and submitted - totals.requests < engine.config.max_waiting:
                    line = todo[submitted]
                    handle = engine.submit_prepared(prepared[line.index], place=line.index)
                    handle.add_done_callback(partial(_finish, finished, line))
                    submitted += 1
                line, handle = finished.get()
                output = handle.result()
                results.write(output_record(line, output, origin))
                totals.add(output)
                progress.update(task, advance=1, rate=totals.rate(time.monotonic() - start))
            seconds, stats = time.monotonic() - start, engine.stats()
        results.close(order=True)
    except (KeyboardInterrupt, EngineDead, OSError) as error:
        why = error
        try:
            if not isinstance(error, OSError) and not results.streams:  # a stream may stand in the middle of a line
                _write_finished(finished, results, origin)
            results.close(order=False)
        except OSError as other:  # says where the lines are, or is one fault more
            why = other
        done = len(results.finished)
        print(
            f"{stopped(why)}: {done} of {len(lines)} requests are "
            + ("there" if isinstance(why, Displaced) else f"in {results.name}")
            + ("" if results.streams or done == len(lines) else "; --resume goes on with the others"),
            file=sys.stderr,
        )
        if isinstance(error, BrokenPipeError):
            raise
        return exit_code(error) if isinstance(error, KeyboardInterrupt) and why is error else 1
    print(totals.line(seconds, stats), file=sys.stderr)
    return 1 if totals.errors else 0


def _write_finished(
    finished: queue.SimpleQueue[tuple[InputLine, Handle]], results: ResultsFile, origin: Origin
) -> None:
    """Write what had finished when the run was stopped and was not written yet."""
    while not finished.empty():
        line, handle = finished.get()
        with suppress(EngineDead):
            output = handle.result()
            if all(sample.finish_reason != "abort" for sample in output.outputs):
                results.write(output_record(line, output, origin))


def _finish(finished: queue.SimpleQueue[tuple[InputLine, Handle]], line: InputLine, handle: Handle) -> None:
    finished.put((line, handle))


def _question(line: InputLine, tokenizer: Tokenizer) -> str:
    """What to show as the question: the text, the last message, or what the token ids decode to."""
    prompt = line.prompt
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Mapping):
        return str(prompt["text"] if "text" in prompt else content_text(prompt["messages"][-1]))
    return tokenizer.decode(prompt)

"""`python -m bench.profile`: where a decode step's time goes: kernels by name, and what lies between them.

The engine decodes as it always does, captured steps and all, while torch's profiler writes down every kernel. Steps in
which all prompts decode and none is prefilled are what counts, between their ends by the engine's own clock; what no
kernel fills is gaps. On a CPU the operators of torch are listed; native calls do not show there.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.markup import escape

from bench import decode, record, stand_in
from bench.command import Shaped, columns, command
from engine import Engine, SamplingParams

_SHOWN = 14
_MARK = "where the engine's clock meets the profiler's"


@dataclass(frozen=True, kw_only=True)
class Options(Shaped):
    """What to look at: each cell is BATCHxCONTEXT."""

    cells: tuple[str, ...] = ("1x1024",)
    """Each is BATCHxCONTEXT."""
    steps: int = 10


@dataclass(frozen=True)
class Spent:
    """Microseconds of `count` kernels of one name."""

    name: str
    count: int
    us: float


def spent(kernels: Iterable[tuple[str, float, float]]) -> tuple[list[Spent], float]:
    """From (name, start, end) in us: totals by name, the largest first, and the time that any of them fills."""
    totals: dict[str, list[float]] = {}
    filled, reached = 0.0, float("-inf")
    for name, start, end in sorted(kernels, key=lambda kernel: kernel[1]):
        totals.setdefault(name, []).append(end - start)
        filled += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    found = (Spent(name, len(times), sum(times)) for name, times in totals.items())
    return sorted(found, key=lambda one: -one.us), filled


def look(engine: Engine, case: decode.Case, ids: list[list[int]], steps: int) -> tuple[list[Spent], dict[str, float]]:
    """(kernels of decode steps, figures per step). Prompts begin to decode one after the other: the first of them write
    so many tokens more that all decode together for about `steps` steps."""
    params = SamplingParams(max_tokens=case.ahead + steps, ignore_eos=True, thinking_format="none")
    engine.generate(ids, params)
    cuda = torch.cuda.is_available() and stand_in.card() is None
    wanted, more = (
        (torch.autograd.DeviceType.CUDA, [torch.profiler.ProfilerActivity.CUDA])
        if cuda
        else (torch.autograd.DeviceType.CPU, [])
    )
    with (
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, *more],
            # operators of a CPU are those of the engine's own thread
            experimental_config=None if cuda else torch._C._profiler._ExperimentalConfig(profile_all_threads=True),
        ) as profiler,
        engine.clocked() as times,
    ):
        marked = time.perf_counter()
        with torch.profiler.record_function(_MARK):
            pass
        engine.generate(ids, params)
    events = profiler.events() or ()
    mark = next(event.time_range.start for event in events if event.name == _MARK)
    full = [one for one in times if one.decodes == len(ids) and not one.prefill][-steps - 1 :]
    if len(full) < 2:
        raise SystemExit(f"bench.profile: all {len(ids)} prompts decoded in {len(full)} steps; raise --steps")
    begin, end = (mark + (full[at].ended - marked) * 1e6 for at in (0, -1))
    totals, filled = spent(
        (event.name, float(event.time_range.start), float(event.time_range.end))
        for event in events
        if event.device_type == wanted and event.cpu_parent is None and begin <= event.time_range.start < end
    )
    count = len(full) - 1
    return totals, {
        "step_us": statistics.median(one.seconds for one in full[1:]) * 1e6,
        "steps": count,
        "kernels_us": filled / count,
        "launches": sum(one.count for one in totals) / count,
        "gaps_us": max(0.0, end - begin - filled) / count,
    }


def main(options: Options) -> None:
    """Profile every cell; a table and a record for each."""
    console, cases = Console(), decode.Case.read(options.cells)
    machine = record.Machine.read(torch.device(options.device))
    with Engine(
        options.folder,
        device=str(stand_in.device(options.device)),
        load_format="dummy" if options.dummy else "auto",
        max_num_seqs=max(case.batch for case in cases),
        max_model_len=max(case.most_tokens(options.steps) for case in cases),
    ) as engine:
        for case in cases:
            totals, figures = look(engine, case, decode.prompts(case, engine.tokenizer.size - 3, []), options.steps)
            console.print(
                f"{options.shape}, {case}: a step of {figures['step_us']:,.0f} us has {figures['launches']:.0f} "
                f"kernels of {figures['kernels_us']:,.0f} us; {figures['gaps_us']:,.0f} us lie between"
            )
            table = columns("kernel", "times", "us, all", "share", title="")
            whole = sum(one.us for one in totals) or 1.0
            for one in totals[:_SHOWN]:
                table.add_row(escape(one.name[:60]), str(one.count), f"{one.us:,.0f}", f"{one.us / whole:.1%}")
                figures[f"share: {one.name[:60]}"] = one.us / whole
            console.print(table)
            machine.write(
                options.output,
                "profile",
                {"model": options.shape, **vars(case), **stand_in.products(torch.device(options.device))},
                figures,
            )


if __name__ == "__main__":
    command(Options, main)

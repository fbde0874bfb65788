"""`python -m bench.budgets`: native budget forcing against the original's client loop, mixed budgets in one batch.

The client loop (s1's README and harness): generate until the model would end its thinking, append "Wait", send the
whole text again; at the budget append the end of thinking and send it once more for the answer. Both run on this
engine and write as many tokens; what differs is prefill, repeated by the client with every call, and the wait for the
slowest of each round. A logit bias makes a random model end its thinking now and then.

A second table has the same batch natively, budget by budget: time to the first answer token, thinking tokens, and
overshoot, which is zero. `--budget 500 1000 2000 4000 8000 16000` are the paper's, mixed in one batch.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import log
from operator import eq
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import record, stand_in
from bench.command import Loaded, command
from bench.timing import median_ratio, paired
from engine import Engine, Handle, SamplingParams, TokenKind
from engine.errors import InputError
from engine.thinking.plan import PRESETS

WAIT, S1 = "Wait", PRESETS["s1"]


@dataclass(frozen=True, kw_only=True)
class Options(Loaded):
    """A batch of requests, and their budgets."""

    batch: int = 8
    context: int = 64
    """Tokens of each prompt before the opener."""
    budget: tuple[int, ...] = (32, 64, 128, 256)
    """Thinking budgets, mixed in one batch."""
    extensions: int = 2
    answer: int = 16
    rounds: int = 3


@dataclass(frozen=True)
class Plan:
    """One request: think up to `budget` tokens with `extensions`, then answer, `total` tokens in all."""

    prompt: list[int]
    budget: int
    extensions: int
    total: int
    sampling: Mapping[str, Any]

    def native(self) -> SamplingParams:
        return SamplingParams(
            **self.sampling,
            max_tokens=self.total,
            thinking_format="s1",
            thinking_token_budget=self.budget,
            thinking_extensions=self.extensions,
            thinking_extension_str=WAIT,
        )


class ClientLoop:
    """The original's loop over `Engine.generate`: each round is one call for all requests that are still open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wait, self._newline, self._end, self._budget_end = (
            engine.tokenizer.encode(text, specials=text.startswith("<|"))
            for text in (WAIT, "\n", S1.end, S1.budget_end)
        )

    def run(self, plans: list[Plan]) -> list[list[int]]:
        """Token ids of each request after its prompt."""
        written: list[list[int]] = [[] for _ in plans]
        thought, used = [0] * len(plans), [0] * len(plans)
        thinking = list(range(len(plans)))
        while thinking:
            answers = self._call(plans, written, thinking, [plans[i].budget - thought[i] for i in thinking])
            still = []
            for i, tokens in zip(thinking, answers, strict=True):
                stopped = tokens[-1:] == self._end[:1]
                body = tokens[:-1] if stopped else tokens
                written[i] += body
                thought[i] += len(body)
                if stopped and used[i] < plans[i].extensions and thought[i] + len(self._wait) < plans[i].budget:
                    used[i] += 1
                    written[i] += self._wait
                    thought[i] += len(self._wait)
                    still.append(i)
                else:
                    written[i] += self._end if stopped else self._close(plans[i].prompt + written[i])
            thinking = still
        left = [plan.total - len(ids) for plan, ids in zip(plans, written, strict=True)]
        answers = self._call(plans, written, range(len(plans)), left, stops=False)
        return [before + after for before, after in zip(written, answers, strict=True)]

    def _close(self, ids: list[int]) -> list[int]:
        newline = [] if self._engine.tokenizer.token_bytes(ids[-1]).endswith(b"\n") else self._newline
        return newline + self._budget_end

    def _call(
        self, plans: list[Plan], written: list[list[int]], which: Sequence[int], most: list[int], stops: bool = True
    ) -> list[list[int]]:
        stop_ids = (self._end[0],) if stops else ()
        params = [
            SamplingParams(**plans[i].sampling, max_tokens=limit, thinking_format="none", stop_token_ids=stop_ids)
            for i, limit in zip(which, most, strict=True)
        ]
        prompts = [plans[i].prompt + written[i] for i in which]
        return [output.outputs[0].token_ids for output in self._engine.generate(prompts, params)]


def make_plans(engine: Engine, options: Options, seed: int) -> list[Plan]:
    """`batch` requests; budgets go round. The trigger comes about `extensions + 1` times within the longest budget."""
    source = random.Random(seed)
    trigger = engine.tokenizer.special_id(S1.triggers[0])
    if trigger is None:
        raise InputError("the checkpoint's tokenizer has no <|im_start|>; bench.budgets runs s1's format")
    opener = engine.tokenizer.encode(S1.opener, specials=True)
    plans = []
    for i in range(options.batch):
        prompt = [source.randrange(trigger) for _ in range(stand_in.tokens(options.context))] + opener
        budget = stand_in.tokens(options.budget[i % len(options.budget)])
        bias = min(100.0, log(engine.tokenizer.size / max(2.0, budget / (options.extensions + 1))))
        sampling = {"temperature": 1.0, "seed": seed * 1000 + i, "ignore_eos": True, "logit_bias": {trigger: bias}}
        plans.append(Plan(prompt, budget, options.extensions, budget + len(S1.budget_end) + options.answer, sampling))
    return plans


def _native(engine: Engine, plans: list[Plan]) -> list[list[int]]:
    outputs = engine.generate([plan.prompt for plan in plans], [plan.native() for plan in plans])
    return [output.outputs[0].token_ids for output in outputs]


def compare(engine: Engine, options: Options) -> tuple[dict[str, float], int]:
    """Time both in turn, each round on new prompts, so that neither finds the other's pages in the prefix cache:
    seconds, prefilled tokens and their ratios; how many requests had equal tokens."""
    ways: dict[str, Callable[[list[Plan]], list[list[int]]]] = {
        "native": partial(_native, engine),
        "client": ClientLoop(engine).run,
    }
    prefill: dict[str, list[int]] = {kind: [] for kind in ways}
    seeds = count()

    def run(kind: str) -> float:
        plans = make_plans(engine, options, next(seeds))
        before, start = engine.stats()["prefill_tokens"], time.perf_counter()
        ways[kind](plans)
        seconds = time.perf_counter() - start
        prefill[kind].append(engine.stats()["prefill_tokens"] - before)
        return seconds

    for kind in ways:
        run(kind)
    seconds = paired(lambda: run("native"), lambda: run("client"), options.rounds)
    values: dict[str, float] = {}
    for kind, times in zip(ways, zip(*seconds, strict=True), strict=True):
        values[f"{kind}_s"] = statistics.median(times)
        values[f"{kind}_prefill_tokens"] = statistics.mean(prefill[kind][1:])  # the first warmed up
    values["time_ratio"] = median_ratio([(theirs, ours) for ours, theirs in seconds])
    plans = make_plans(engine, options, next(seeds))
    return values, sum(map(eq, *(way(plans) for way in ways.values())))


@dataclass(frozen=True)
class Served:
    """One request of a mixed batch. Seconds count from its submission."""

    budget: int
    thinking: int
    tokens: int
    first_answer_s: float
    """To the first token that the model wrote behind the forced end."""
    total_s: float

    @property
    def overshoot(self) -> int:
        """Thinking tokens past the budget."""
        return max(0, self.thinking - self.budget)


def serve(engine: Engine, plans: list[Plan]) -> tuple[list[Served], float]:
    """All plans at once, natively; what became of each, and the seconds that the batch took."""
    start = time.perf_counter()
    handles = [engine.submit(plan.prompt, plan.native()) for plan in plans]

    def read(plan: Plan, handle: Handle) -> Served:
        answer = 0.0
        for delta in handle:
            if not answer and delta.kind is TokenKind.ANSWER and len(delta.token_ids) > len(delta.forced):
                answer = time.perf_counter() - start
        sample, total = handle.result().outputs[0], time.perf_counter() - start
        return Served(plan.budget, sample.thinking.tokens, len(sample.token_ids), answer, total)

    with ThreadPoolExecutor(len(plans)) as readers:
        return list(readers.map(read, plans, handles)), time.perf_counter() - start


def run(options: Options, console: Console) -> None:
    """Both ways with and without the prefix cache, then the mixed batch; tables, and records for `options.output`."""
    torch.set_num_threads(options.threads)
    machine = record.Machine.read(torch.device(options.device))
    case = {
        "model": options.name,
        "batch": options.batch,
        "context": options.context,
        "budgets": list(options.budget),
        "extensions": options.extensions,
    }
    engine_of = partial(
        Engine,
        options.folder,
        load_format="dummy" if options.dummy else "auto",
        device=str(stand_in.device(options.device)),
        max_num_seqs=options.batch,
        max_model_len=sum(map(stand_in.tokens, (options.context, max(options.budget))))
        + options.answer
        + 2 * len(S1.budget_end),
    )
    table = Table(
        *("prefix cache", "", "prefill tokens", "s", "equal tokens"),
        title=f"{options.name}: batch {options.batch}, budgets {options.budget}",
    )
    for caching in (False, True):
        with engine_of(enable_prefix_caching=caching) as engine:
            values, equal = compare(engine, options)
        for kind in ("native", "client"):
            tokens, seconds = f"{values[f'{kind}_prefill_tokens']:,.0f}", f"{values[f'{kind}_s']:.3f}"
            table.add_row("on" if caching else "off", kind, tokens, seconds, f"{equal} of {options.batch}")
        ratios = values["client_prefill_tokens"] / values["native_prefill_tokens"], values["time_ratio"]
        table.add_row("", "client / native", *(f"{ratio:.2f}" for ratio in ratios), "", end_section=True)
        machine.write(options.output, "budgets", case | {"prefix_cache": caching}, values | {"equal": equal})
    console.print(table)
    with engine_of() as engine:
        serve(engine, make_plans(engine, options, 1))
        served, taken = serve(engine, make_plans(engine, options, 0))
    table, values = mixed(options, served, taken)
    table.title = f"{options.name}: one batch of {options.batch}, {values['tokens_per_s']:,.0f} tok/s"
    console.print(table)
    machine.write(options.output, "budgets_mixed", case, values)


def mixed(options: Options, served: list[Served], seconds: float) -> tuple[Table, dict[str, float]]:
    """A mixed batch, budget by budget: as a table, and as figures."""
    table = Table("budget", "requests", "thinking tokens", "overshoot", "first answer token, s", "done, s")
    values = {
        "tokens_per_s": sum(one.tokens for one in served) / seconds,
        "overshoot_tokens": float(max(one.overshoot for one in served)),
    }
    for budget in sorted(set(options.budget[: options.batch])):
        some = [one for one in served if one.budget == stand_in.tokens(budget)]
        columns = zip(*((one.thinking, one.first_answer_s, one.total_s) for one in some), strict=True)
        thinking, first, total = map(statistics.mean, columns)
        values[f"first_answer_s_{budget}"] = first
        table.add_row(
            f"{budget:,}",
            str(len(some)),
            f"{thinking:,.0f}",
            str(max(one.overshoot for one in some)),
            f"{first:.3f}",
            f"{total:.3f}",
        )
    return table, values


def main(options: Options) -> None:
    """Measure, print, append."""
    run(options, Console())


if __name__ == "__main__":
    command(Options, main)

"""`python -m bench.budgets`: native budget forcing against the original's client loop, mixed budgets in one batch.

The client loop (s1's README and harness): generate until the model would end its thinking, append "Wait", send the
whole text again; at the budget append the end of thinking and send it once more for the answer. Both run on this
engine and write as many tokens; what differs is prefill, repeated by the client with every call, and the wait for the
slowest of each round. A logit bias makes a random model end its thinking now and then.

A second table has the same batch natively, budget by budget: time to the first answer token, thinking tokens, and
overshoot, which is zero. `--budget 500 1000 2000 4000 8000 16000` are the paper's, mixed in one batch.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench import record, stand_in
from bench.checkpoints import checkpoint
from bench.timing import median_ratio, paired
from engine import Engine, Handle, SamplingParams, TokenKind
from engine.errors import InputError

WAIT, END, BUDGET_END = "Wait", "<|im_start|>answer", "<|im_start|>answer\nFinal Answer:"


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
        encode = engine.tokenizer.encode
        self._wait = encode(WAIT)
        self._end, self._budget_end = encode(END, specials=True), encode(BUDGET_END, specials=True)
        self._newline = encode("\n")

    def run(self, plans: list[Plan]) -> list[list[int]]:
        """Token ids of each request after its prompt."""
        written: list[list[int]] = [[] for _ in plans]
        thought, used = [0] * len(plans), [0] * len(plans)
        thinking = list(range(len(plans)))
        while thinking:
            answers = self._call(plans, written, thinking, [plans[i].budget - thought[i] for i in thinking])
            still = []
            for i, tokens in zip(thinking, answers, strict=True):
                stopped = bool(tokens) and tokens[-1] == self._end[0]
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
        everyone = list(range(len(plans)))
        left = [plan.total - len(ids) for plan, ids in zip(plans, written, strict=True)]
        answers = self._call(plans, written, everyone, left, stops=False)
        return [before + after for before, after in zip(written, answers, strict=True)]

    def _close(self, ids: list[int]) -> list[int]:
        newline = [] if self._engine.tokenizer.token_bytes(ids[-1]).endswith(b"\n") else self._newline
        return newline + self._budget_end

    def _call(
        self, plans: list[Plan], written: list[list[int]], which: list[int], most: list[int], stops: bool = True
    ) -> list[list[int]]:
        stop_ids = (self._end[0],) if stops else ()
        params = [
            SamplingParams(**plans[i].sampling, max_tokens=limit, thinking_format="none", stop_token_ids=stop_ids)
            for i, limit in zip(which, most, strict=True)
        ]
        outputs = self._engine.generate([plans[i].prompt + written[i] for i in which], params)
        return [output.outputs[0].token_ids for output in outputs]


def make_plans(engine: Engine, options: Options, seed: int) -> list[Plan]:
    """`batch` requests; budgets go round. The trigger comes about `extensions + 1` times within the longest budget."""
    source = random.Random(seed)
    trigger = engine.tokenizer.special_id("<|im_start|>")
    if trigger is None:
        raise InputError("the checkpoint's tokenizer has no <|im_start|>; bench.budgets runs s1's format")
    opener = engine.tokenizer.encode("<|im_start|>think", specials=True)
    reserve = len(BUDGET_END) + options.answer
    plans = []
    for i in range(options.batch):
        prompt = [source.randrange(trigger) for _ in range(stand_in.tokens(options.context))] + opener
        budget = stand_in.tokens(options.budget[i % len(options.budget)])
        often = max(2.0, budget / (options.extensions + 1))
        bias = min(100.0, log(engine.tokenizer.size / often))
        sampling = {"temperature": 1.0, "seed": seed * 1000 + i, "ignore_eos": True, "logit_bias": {trigger: bias}}
        plans.append(Plan(prompt, budget, options.extensions, budget + reserve, sampling))
    return plans


@dataclass(frozen=True)
class Outcome:
    """Seconds and prefilled tokens, native and client, a pair per round; how many requests had equal tokens."""

    seconds: list[tuple[float, float]]
    prefill: list[tuple[int, int]]
    equal: int


def compare(engine: Engine, options: Options) -> Outcome:
    """Time both in turn, each round on new prompts, so that neither finds the other's pages in the prefix cache."""
    client = ClientLoop(engine)
    seeds = iter(range(10_000))
    prefill: dict[str, list[int]] = {"native": [], "client": []}

    def run(kind: str) -> float:
        plans = make_plans(engine, options, next(seeds))
        before, start = engine.stats()["prefill_tokens"], time.perf_counter()
        if kind == "native":
            engine.generate([p.prompt for p in plans], [p.native() for p in plans])
        else:
            client.run(plans)
        seconds = time.perf_counter() - start
        prefill[kind].append(engine.stats()["prefill_tokens"] - before)
        return seconds

    run("native"), run("client")
    prefill = {"native": [], "client": []}
    seconds = paired(lambda: run("native"), lambda: run("client"), options.rounds)
    plans = make_plans(engine, options, next(seeds))
    native = engine.generate([p.prompt for p in plans], [p.native() for p in plans])
    equal = sum(a.outputs[0].token_ids == b for a, b in zip(native, client.run(plans), strict=True))
    return Outcome(seconds, list(zip(prefill["native"], prefill["client"], strict=True)), equal)


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
    served: list[Served | None] = [None] * len(plans)
    start = time.perf_counter()
    handles = [engine.submit(plan.prompt, plan.native()) for plan in plans]

    def read(at: int, handle: Handle) -> None:
        answer = 0.0
        for delta in handle:
            own = len(delta.token_ids) > len(delta.forced)
            if not answer and own and delta.kind is TokenKind.ANSWER:
                answer = time.perf_counter() - start
        sample = handle.result().outputs[0]
        total = time.perf_counter() - start
        served[at] = Served(plans[at].budget, sample.thinking.tokens, len(sample.token_ids), answer, total)

    readers = [threading.Thread(target=read, args=pair) for pair in enumerate(handles)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return [one for one in served if one is not None], time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str | None = None
    """Checkpoint directory; without one, random weights of `shape` are made in `cache`."""
    shape: Literal["tiny", "40m", "qwen2.5-0.5b"] = "40m"
    batch: int = 8
    context: int = 64
    """Tokens of each prompt before the opener."""
    budget: tuple[int, ...] = (32, 64, 128, 256)
    """Thinking budgets, mixed in one batch."""
    extensions: int = 2
    answer: int = 16
    rounds: int = 3
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = torch.get_num_threads()
    cache: Path = Path(tempfile.gettempdir()) / "s1-engine-bench"
    output: Path | None = None
    """A file of JSON lines to append the results to."""


def run(options: Options, console: Console) -> list[record.Record]:
    """Both ways with and without the prefix cache; a table, and records appended to `options.output`."""
    torch.set_num_threads(options.threads)
    folder = Path(options.model) if options.model else checkpoint(options.cache, stand_in.shape(options.shape))
    machine = record.Machine.read(torch.device(options.device))
    table = Table(
        "prefix cache",
        "",
        "prefill tokens",
        "s",
        "equal tokens",
        title=f"{folder.name}: batch {options.batch}, budgets {options.budget}",
    )
    records = []
    longest = sum(map(stand_in.tokens, (options.context, max(options.budget)))) + options.answer + 2 * len(BUDGET_END)
    for caching in (False, True):
        with Engine(
            folder,
            device=str(stand_in.device(options.device)),
            max_num_seqs=options.batch,
            max_model_len=longest,
            enable_prefix_caching=caching,
        ) as engine:
            outcome = compare(engine, options)
        values: dict[str, float] = {}
        for at, kind in enumerate(("native", "client")):
            values[f"{kind}_s"] = statistics.median(pair[at] for pair in outcome.seconds)
            values[f"{kind}_prefill_tokens"] = statistics.mean(pair[at] for pair in outcome.prefill)
            table.add_row(
                "on" if caching else "off",
                kind,
                f"{values[f'{kind}_prefill_tokens']:,.0f}",
                f"{values[f'{kind}_s']:.3f}",
                f"{outcome.equal} of {options.batch}",
            )
        values["time_ratio"] = median_ratio([(client, native) for native, client in outcome.seconds])
        table.add_row(
            "",
            "client / native",
            f"{values['client_prefill_tokens'] / values['native_prefill_tokens']:.2f}",
            f"{values['time_ratio']:.2f}",
            "",
            end_section=True,
        )
        varied = _case(options, folder) | {"prefix_cache": caching}
        records.append(machine.record("budgets", varied, values | {"equal": outcome.equal}))
        if options.output is not None:
            record.append(records[-1], options.output)
    console.print(table)
    return [*records, mixed(options, console, folder, machine, longest)]


def mixed(options: Options, console: Console, folder: Path, machine: record.Machine, longest: int) -> record.Record:
    """The mixed batch, budget by budget; a table, and one record appended to `options.output`."""
    device = str(stand_in.device(options.device))
    with Engine(folder, device=device, max_num_seqs=options.batch, max_model_len=longest) as engine:
        serve(engine, make_plans(engine, options, 1))
        served, seconds = serve(engine, make_plans(engine, options, 0))
    rate = sum(one.tokens for one in served) / seconds
    table = Table(
        "budget",
        "requests",
        "thinking tokens",
        "overshoot",
        "first answer token, s",
        "done, s",
        title=f"{folder.name}: one batch of {options.batch}, {rate:,.0f} tok/s",
    )
    values: dict[str, float] = {"tokens_per_s": rate, "overshoot_tokens": float(max(one.overshoot for one in served))}
    for budget in sorted(set(options.budget)):
        some = [one for one in served if one.budget == stand_in.tokens(budget)]
        if some:
            first = statistics.mean(one.first_answer_s for one in some)
            values[f"first_answer_s_{budget}"] = first
            table.add_row(
                f"{budget:,}",
                str(len(some)),
                f"{statistics.mean(one.thinking for one in some):,.0f}",
                str(max(one.overshoot for one in some)),
                f"{first:.3f}",
                f"{statistics.mean(one.total_s for one in some):.3f}",
            )
    found = machine.record("budgets_mixed", _case(options, folder), values)
    if options.output is not None:
        record.append(found, options.output)
    console.print(table)
    return found


def _case(options: Options, folder: Path) -> dict[str, Any]:
    return {
        "model": folder.name if options.model else options.shape,
        "batch": options.batch,
        "context": options.context,
        "budgets": list(options.budget),
        "extensions": options.extensions,
    }


def main() -> None:
    try:
        run(tyro.cli(Options, prog="python -m bench.budgets", description=__doc__), Console())
    except InputError as error:
        raise SystemExit(f"bench.budgets: {error}") from None


if __name__ == "__main__":
    main()

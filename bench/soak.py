"""`python -m bench.soak`: hours of use in minutes, from many threads, with every reply compared.

Threads ask seeded random requests of an engine whose page pool is too small for them: budgets, extensions, samples,
stop strings, shared prefixes, aborts, streams left early, live control, refusals. A second engine has answered each
request alone. What finished must equal that, what was aborted be its beginning, and what was controlled equal a run
with a budget of its thinking tokens, or with one extension more. Memory, descriptors and threads must stay flat.
Exit code 1 where anything does not hold.
"""

import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import linear_regression
from typing import Any

from rich.console import Console

from bench.command import check, columns, command
from engine import Completion, Engine, Handle, InputError, SamplingParams
from engine.model.embedded import EMBEDDED

ALONE: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 256, "page_size": 4}
TIGHT = {**ALONE, "max_num_seqs": 40, "kv_cache_tokens": 640, "max_num_batched_tokens": 160}
BAD: tuple[tuple[Any, dict[str, Any]], ...] = (
    *((prompt, {}) for prompt in ("", [5] * 300, [10**9], {"messages": 3})),
    *(("why", {name: 10**6}) for name in ("n", "logprobs", "temperature")),
    ("why", {"max_tokens": 1}),
    ("why", {"thinking_extension_str": "<|im_start|>"}),
)
OPEN, HANG_S = 5, 120.0
"""Requests that a thread has open at once; how long one may take."""
WARM, MIB_PER_MINUTE, JUDGED = 0.3, 1.0, 3.0
"""Share of the time before memory is judged; what it may grow by; minutes below which its ups and downs win."""


@dataclass(frozen=True)
class Options:
    """How long, and how hard."""

    minutes: float = 10.0
    threads: int = 8
    """Threads that submit requests."""
    requests: int = 400
    """Different ones: each is asked again and again, in other company."""
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One request, and its samples when it runs alone. `steerable`: nothing but control decides when thinking ends."""

    prompt: str
    params: SamplingParams
    alone: list[Completion]
    steerable: bool


def draw(chance: random.Random, number: int, steerable: bool) -> tuple[str, SamplingParams]:
    """A request: one of few beginnings, which share pages, and almost anything that may be asked."""
    pick = chance.choice
    some: list[dict[str, Any]] = [
        {"temperature": pick((0.7, 1.0)), "top_p": pick((0.9, 1.0)), "top_k": pick((0, 20)), "min_p": pick((0, 0.05))},
        {"repetition_penalty": 1.2, "presence_penalty": 0.5},
        {"logit_bias": {chance.randrange(20, 200): 2.0}, "thinking_extension_str": "Hmm"},
        {"thinking_extensions": pick((1, 2))},
        {"n": pick((1, 1, 2, 4))},
        {"thinking_token_budget": pick((4, 9, 20)), "min_thinking_tokens": pick((0, 4))},
        {"thinking_grace_tokens": 5, "thinking_budget_action": pick(("truncate", "force_end"))},
        {"stop": (pick(("1", " is", ".", "\n")),), "min_tokens": pick((0, 20))},
        {"logprobs": pick((0, 5)), "ignore_eos": pick((True, False))},
    ]
    fields = {
        name: value for part in some[: 4 if steerable else None] if pick((True, False)) for name, value in part.items()
    }
    beginning = pick(("What is ", "Add the numbers and say what comes out, step by step: ", "If Tom has "))
    prompt = f"{beginning}{chance.randrange(99)} + {chance.randrange(99)}?"
    return prompt, SamplingParams(seed=number, max_tokens=chance.randint(12, 28), **fields)


class Soak:
    """The engine under test, the one that answers alone, and what was found."""

    def __init__(self, options: Options) -> None:
        self.options, self.counts, self.findings = options, Counter[str](), list[str]()
        self.looks: list[tuple[float, ...]] = []
        """Seconds, bytes of memory, descriptors, threads."""
        self._lock, self._over = threading.Lock(), threading.Event()
        self.reference, self.engine = Engine(str(EMBEDDED), **ALONE), Engine(str(EMBEDDED), **TIGHT)
        chance, self.cases = random.Random(options.seed), list[Case]()
        for number in range(options.requests):
            prompt, params = draw(chance, number, steerable := number % 8 == 0)
            self.cases.append(Case(prompt, params, self._alone(prompt, params), steerable))
        self._changed = lru_cache(256)(self._changed_anew)

    def _alone(self, prompt: str, params: SamplingParams) -> list[Completion]:
        with self._lock:
            return self.reference.generate([prompt], params)[0].outputs

    def _changed_anew(self, number: int, field: str, value: int) -> Completion:
        """The sample of a case whose parameters have another value."""
        return self._alone(
            self.cases[number].prompt, SamplingParams.from_dict({field: value}, self.cases[number].params)
        )[0]

    def _work(self, thread: int) -> None:
        """Keep some requests open, end each in one of the ways, compare."""
        chance, waiting = random.Random(f"{self.options.seed} {thread}"), list[tuple[int, Handle]]()
        try:
            while waiting or not self._over.is_set():
                while len(waiting) < OPEN and not self._over.is_set():
                    number = chance.randrange(len(self.cases))
                    waiting.append((number, self.engine.submit(self.cases[number].prompt, self.cases[number].params)))
                if chance.random() < 0.04:
                    self._refused(*chance.choice(BAD))
                self._end(*waiting.pop(chance.randrange(len(waiting))), chance)
        except Exception as error:  # a thread that dies is a finding, not fewer requests
            self.findings.append(f"a thread ended: {error!r}")

    def _refused(self, prompt: Any, params: dict[str, Any]) -> None:
        self.counts["refused"] += 1
        try:
            self.engine.submit(prompt, SamplingParams(**params))
            self.findings.append(f"{str(prompt)[:20]} with {params} was not refused")
        except InputError:
            pass

    def _end(self, number: int, handle: Handle, chance: random.Random) -> None:
        """Read a request, whole or in part, perhaps steer it, and compare."""
        case, after, budget, seen = self.cases[number], chance.randint(1, 12), chance.randint(1, 20), ""
        steering = {
            "end_thinking": handle.end_thinking,
            "extend": handle.extend,
            "set_budget": lambda: handle.set_budget(budget),
        }
        way = chance.choice(("whole", "whole", "read", "abort", "left", *(steering if case.steerable else ())))
        for at, delta in enumerate(handle if way != "whole" else ()):
            seen += delta.text if delta.index == 0 else ""
            if at == after and way == "left":
                break
            if at == after:
                {**steering, "abort": handle.abort}.get(way, lambda: None)()
        if way == "left":
            handle.abort()
        outputs = handle.result(HANG_S).outputs
        self.counts.update({way: 1, "tokens": sum(len(sample.token_ids) for sample in outputs)})
        for ours, alone in zip(outputs, case.alone, strict=True):
            got, want = same(ours), same(self._wanted(number, way, ours, alone))
            if got != want:
                self.findings.append(f"request {number}, {way}: {got} instead of {want}")
        if way not in ("whole", "left") and seen != outputs[0].text:
            self.findings.append(f"request {number}, {way}: the stream said {seen!r}, the output {outputs[0].text!r}")

    def _wanted(self, number: int, way: str, ours: Completion, alone: Completion) -> Completion:
        """What a sample must be: the run alone, its beginning, or a run whose parameters say what control said."""
        told, length = ours.thinking, len(ours.token_ids)
        if ours.finish_reason == "abort":
            return replace(ours, token_ids=alone.token_ids[:length], forced=[f for f in alone.forced if f < length])
        if way == "extend" and told.extensions != alone.thinking.extensions:
            return self._changed(number, "thinking_extensions", self.cases[number].params.thinking_extensions + 1)
        if way in ("end_thinking", "set_budget") and told.stop_reason in ("client", "budget"):
            limited = self._changed(number, "thinking_token_budget", told.tokens)
            return replace(limited, thinking=replace(limited.thinking, stop_reason=told.stop_reason))
        return alone

    def run(self) -> float:
        """All threads until the time is up; then every page must be accounted for. Returns MiB per minute."""
        threads = [threading.Thread(target=self._work, args=(at,)) for at in range(self.options.threads)]
        seconds, begin = 60 * self.options.minutes, time.monotonic()
        for thread in threads:
            thread.start()
        while time.monotonic() < begin + seconds and any(thread.is_alive() for thread in threads):
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self.looks.append(
                (time.monotonic(), memory, *(len(os.listdir(f"/proc/self/{of}")) for of in ("fd", "task")))
            )
            time.sleep(min(1.0, seconds / 20))
        self._over.set()
        for thread in threads:
            thread.join(2 * HANG_S)
        self.engine.check()
        warm = [look for look in self.looks if look[0] >= begin + WARM * seconds]
        growth = linear_regression([look[0] / 60 for look in warm], [look[1] / 2**20 for look in warm]).slope
        for at, what in ((2, "descriptors"), (3, "threads")):
            if warm[-1][at] > warm[0][at]:
                self.findings.append(f"{what} grew from {warm[0][at]:g} to {warm[-1][at]:g}")
        if growth > MIB_PER_MINUTE and self.options.minutes >= JUDGED:
            self.findings.append(f"memory grows by {growth:.2f} MiB per minute")
        return growth


def same(sample: Completion) -> tuple[object, ...]:
    """What must be equal: all but the last digits of log-probabilities."""
    texts = (sample.text, sample.reasoning, sample.answer)
    return sample.token_ids, sample.forced, *texts, sample.finish_reason, sample.thinking


def main(options: Options) -> int:
    """Soak, print the table; returns 1 where something was found."""
    for name, most in (("minutes", 10_000), ("threads", 256), ("requests", 10_000)):
        value = getattr(options, name)
        check(not 0 < value <= most and f"--{name} is {value}; give a number above 0, at most {most}")
    soak = Soak(options)
    growth, stats = soak.run(), soak.engine.stats()
    table = columns("what", "count", title=f"s1-nano, {options.minutes:g} minutes, seed {options.seed}")
    table.add_row("requests", f"{soak.counts.total() - soak.counts['tokens']:,}")
    counters = ((name, stats[name]) for name in ("steps", "preemptions", "forks", "prefix_hit_tokens"))
    for name, value in (*sorted(soak.counts.items()), *counters, ("memory, MiB", int(soak.looks[-1][1]) >> 20)):
        table.add_row(name, f"{value:,}")
    table.add_row("memory, MiB per minute", f"{growth:+.2f}")
    table.add_row("findings", str(len(soak.findings)))
    console = Console()
    console.print(table)
    for finding in soak.findings[:5]:
        console.print(finding, markup=False)
    soak.engine.close()
    soak.reference.close()
    return 1 if soak.findings else 0


if __name__ == "__main__":
    command(Options, main)

"""`python -m bench.host`: what the engine's loop costs without a decoder.

A null model takes the decoder's place: its logits depend on the position alone, so everything else is real: scheduler,
page pool, slot tables, sampler, thinking machine, detokenizer. Three questions: does a token cost more at the end of a
long generation than at its start; what do budgets in half of a batch cost the whole of it; what does a step cost the
host alone, that is, without what a GPU does by itself (on CUDA one graph launch takes the place of that part). Times
are the process's CPU seconds, with one thread: what the host spends, whatever else the machine does.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from bench import record
from bench.checkpoints import checkpoint
from bench.command import Cached, command
from bench.shapes import SHAPES
from bench.timing import median_ratio, paired
from engine.core import Core
from engine.messages import End
from engine.model.batch import AttentionMeta, StepResult
from engine.prepare import Preparer
from engine.request import SamplingParams
from engine.response import Response
from engine.schedule.page_pool import PagePool
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Admission, Prepared
from engine.step.runner import Runner
from engine.step.slots import SlotTables, StepTables
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import PRESETS
from kernels.thinking_tables import traits_of

PAGE_SIZE = 16


class NullModel:
    """A decoder that computes nothing: the best token is `trigger` at every `every`-th position, else a plain one."""

    def __init__(self, vocab: int, trigger: int, every: int = 48) -> None:
        self._every = every
        self._table = torch.zeros(every, vocab)
        self._table[torch.arange(every), 100 + torch.arange(every)] = 1.0
        self._table[0, trigger] = 2.0

    def forward(self, ids: Tensor, positions: Tensor, meta: AttentionMeta, kv: list[tuple[Tensor, Tensor]]) -> Tensor:
        """positions [N] -> "hidden" [N, 1]: the position, all that the logits depend on."""
        return positions[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, 1] -> [B, vocab] float32."""
        return self._table[hidden[:, 0] % self._every]

    def scores(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """hidden [R, 1] -> [R] float32: no step counts."""
        return torch.zeros(len(hidden))


class TimedRunner(Runner):
    """A runner that adds up the CPU seconds of what the device does in a decode step: forward, draw, machine."""

    device_seconds = 0.0

    def _decode(self, inputs: Tensor, tables: StepTables, bits: int, top: int, longest: int) -> StepResult:
        start = time.process_time()
        result = super()._decode(inputs, tables, bits, top, longest)
        self.device_seconds += time.process_time() - start
        return result


@dataclass(frozen=True)
class StepCost:
    """CPU seconds of one step: of the `loop` (scheduler, inputs, launch, reading) and of `output` (tokens to text,
    deltas, reports), which are the host's own; `device`: what a GPU does by itself, here by the CPU over a null model.
    """

    loop: float
    output: float
    device: float

    @property
    def host(self) -> float:
        return self.loop + self.output


class HostLoop:
    """The engine's loop over a null model, in the caller's thread."""

    def __init__(self, folder: Path, max_num_seqs: int, context: int, step_graphs: bool = False) -> None:
        """`step_graphs`: with buckets and padding, as on CUDA."""
        self.tokenizer = Tokenizer.load(folder)
        trigger, *_ = self.opener = self.tokenizer.encode(PRESETS["s1"].opener, specials=True)
        vocab = self.tokenizer.size
        traits = torch.tensor([traits_of(self.tokenizer.token_bytes(i)) for i in range(vocab)], dtype=torch.uint8)
        tables = SlotTables(
            torch.device("cpu"), max_num_seqs, context, PAGE_SIZE, vocab, self.tokenizer.eos_token_ids, traits
        )
        pool = PagePool(max_num_seqs * -(-context // PAGE_SIZE) + 1, PAGE_SIZE, True)
        self._runner = TimedRunner(NullModel(vocab, trigger), [], tables, PAGE_SIZE, step_graphs)
        self._core = Core(Scheduler(pool, max_num_seqs, 8192), self._runner, overlap=False)
        self.prepare = Preparer(self.tokenizer, "s1", context).prepare
        self._numbers = count()

    def run(self, requests: list[Prepared]) -> list[float]:
        """Run requests to their end; CPU seconds of each step, detokenizing and deltas included."""
        return [cost.host + cost.device for cost in self.run_apart(requests)]

    def run_apart(self, requests: list[Prepared], streams: bool = False) -> list[StepCost]:
        """Run requests to their end; each step's parts. `streams`: somebody reads every delta as it comes."""
        responses = {}
        for prepared, number in zip(requests, self._numbers, strict=False):
            responses[number] = Response(str(number), number, prepared, self.tokenizer, lambda delta: None)
            responses[number].streams = streams
            self._core.apply(Admission(number, prepared, number))
        costs, clock = [], time.process_time
        while self._core.has_work:
            self._runner.device_seconds = 0.0
            start = clock()
            events = self._core.step()
            middle = clock()
            for event in events:
                number, sample = event.sequence.key
                if responses[number].push(event):
                    self._core.apply(End(number, sample))
            device = self._runner.device_seconds
            costs.append(StepCost(middle - start - device, clock() - middle, device))
        self._core.check()
        return costs


def quiet_mean(seconds: Sequence[float], block: int = 64) -> float:
    """Seconds per step: the lower quartile over blocks of `block` steps of the block's mean. What happens once per page
    counts; what else the machine did in some of the blocks does not. Steps beyond the last whole block are left out.
    """
    if len(seconds) < block:
        raise ValueError(f"{len(seconds)} steps are fewer than a block of {block}")
    blocks = sorted(sum(seconds[i : i + block]) / block for i in range(0, len(seconds) - block + 1, block))
    return blocks[len(blocks) // 4]


def growth(folder: Path, tokens: int, window: int, rounds: int) -> list[tuple[float, float]]:
    """Pairs of seconds per token: the last `window` of a request of `tokens`, and the first of a fresh one after it,
    so that both meet the machine in the same state."""
    loop = HostLoop(folder, 1, tokens + 64)

    def run(length: int) -> list[float]:
        params = SamplingParams(max_tokens=length, ignore_eos=True, thinking_extensions=length)
        return loop.run([loop.prepare([5] * 16 + loop.opener, params)])[1:]  # the first step prefills

    run(window)
    return [(quiet_mean(run(tokens)[-window:]), quiet_mean(run(window + 1))) for _ in range(rounds)]


def _forced(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, ignore_eos=True, thinking_token_budget=tokens // 2, thinking_extensions=2)


def budget_cost(folder: Path, batch: int, tokens: int, rounds: int) -> list[tuple[float, float]]:
    """Pairs of seconds per step: half the batch with budgets and extensions, none of it."""
    loop = HostLoop(folder, batch, tokens + 64)
    plain = SamplingParams(max_tokens=tokens, ignore_eos=True)
    without, half = (
        [loop.prepare([7 + i] * 16 + loop.opener, params if i % 2 else plain) for i in range(batch)]
        for params in (plain, _forced(tokens))
    )

    def typical(requests: list[Prepared]) -> float:
        return quiet_mean(loop.run(requests)[1:], PAGE_SIZE)

    typical(half)
    return paired(lambda: typical(half), lambda: typical(without), rounds)


def step_cost(folder: Path, batch: int, tokens: int, rounds: int, streams: bool = False) -> StepCost:
    """The typical step (lower quartile of each part) of `batch` requests with budgets and extensions."""
    loop = HostLoop(folder, batch, tokens + 64, step_graphs=True)
    requests = [loop.prepare([7 + i] * 16 + loop.opener, _forced(tokens)) for i in range(batch)]
    loop.run(requests)
    costs = [astuple(cost) for _ in range(rounds) for cost in loop.run_apart(requests, streams)[1:]]
    return StepCost(*(quiet_mean(part, PAGE_SIZE) for part in zip(*costs, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Options(Cached):
    """How long the generations are, and how large the batches."""

    tokens: int = 16384
    """Length of the long generation."""
    window: int = 2048
    """Steps at its start and end that are compared."""
    batch: int = 128
    step_batch: int = 64
    """Requests of the step whose host part is measured."""
    batch_tokens: int = 128
    """Tokens of each request of the batch."""
    rounds: int = 15
    """Pairs of batches; of long generations a third as many."""


def main(options: Options) -> None:
    """Ask the three questions; print and append each answer as soon as it is there."""
    torch.set_num_threads(1)
    folder = checkpoint(options.cache, SHAPES["tiny"])
    write = partial(record.Machine.read(torch.device("cpu")).write, options.output)
    batch, tokens, rounds = options.batch, options.batch_tokens, options.rounds
    for benchmark, case, measure, sides, text in (
        (
            "host_growth",
            {"model": "null", "tokens": options.tokens},
            partial(growth, folder, options.tokens, options.window, rounds // 3 + 1),
            ("end_us", "start_us"),
            "one request of {tokens:,} tokens: {start_us:.1f} us per token at the start, {end_us:.1f} us at the end",
        ),
        (
            "host_budgets",
            {"model": "null", "batch": batch, "tokens": tokens},
            partial(budget_cost, folder, batch, tokens, rounds),
            ("half_us", "without_us"),
            "{batch} requests: {without_us:.0f} us per step without budgets, {half_us:.0f} us with budgets and "
            "extensions in half of them",
        ),
    ):
        pairs = measure()
        figures = {
            side: statistics.median(seconds) * 1e6
            for side, seconds in zip(sides, zip(*pairs, strict=True), strict=True)
        }
        print(f"{text.format(**case, **figures)}, ratio {median_ratio(pairs):.3f}")
        write(benchmark, case, figures | {"ratio": median_ratio(pairs)})
    for name in ("collected", "streamed"):
        cost = step_cost(folder, options.step_batch, tokens, rounds, name == "streamed")
        figures = {"host_us": cost.host * 1e6, "output_us": cost.output * 1e6, "device_us": cost.device * 1e6}
        print(
            f"{options.step_batch} requests, outputs {name}: the host takes {figures['host_us']:.0f} us per step, "
            f"of it {figures['output_us']:.0f} us for text and deltas; "
            f"the null device takes {figures['device_us']:.0f} us"
        )
        write("host_step", {"model": "null", "batch": options.step_batch, "outputs": name}, figures)


if __name__ == "__main__":
    command(Options, main)

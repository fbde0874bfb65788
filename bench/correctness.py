"""`python -m bench.correctness`: what this device computes beside the definitions, before it is timed.

Tokens first. A tiny model in float32 runs a batch of prompts with budgets and extensions on the device, and by torch
definitions on the CPU: all committed tokens must be equal. In bfloat16, and for two layers of the 32B shape by
definitions on the device itself, rounding may change a draw: then the token that was drawn must be nearly as likely as
the definitions' best, and the log-probabilities must agree wherever both had the same text. Then the trainer's packed
attention with its gradients, and, where pytest is installed, the operators' own tests, a process for each file. Each
result is written as soon as it is there; `--resume` leaves out what the output has.
"""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from bench import record, stand_in
from bench.checkpoints import checkpoint
from bench.command import Cached, OnDevice, Resumed, command
from bench.processes import ends_with_its_parent
from bench.shapes import SHAPES
from engine import Engine, SamplingParams
from engine.thinking.plan import PRESETS
from train.attention import Documents, attend

CHILD = "S1_KERNELS"
"""Set to `reference`, it makes a process use the definitions: the pick is made once per process."""
NEAR = 0.25
"""What rounding to bfloat16 may change in a log-probability: logits of order 10 are kept to 2^-8 of themselves, several
times over."""
_BEST = 32
"""Log-probabilities that are kept of each position."""
_LENGTHS = (512, 200, 1000, 336)


MODELS = {"tiny": SHAPES["tiny"], "32B, 2 layers": replace(SHAPES["qwen2.5-32b"], num_layers=2)}
"""What is compared, by name."""


@dataclass(frozen=True, kw_only=True)
class Options(Cached, OnDevice, Resumed):
    """What is compared."""

    parts: tuple[Literal["tokens", "training", "operators"], ...] = ("tokens", "training", "operators")
    only: str = ""
    """Of the tokens, models and types whose name (MODEL/DTYPE) contains this."""
    workers: int = 2
    """Processes for the operators' tests of one file."""
    answer: str | None = None
    """MODEL/DTYPE/DEVICE: print this process's tokens as JSON and end. How the command calls itself."""


@dataclass(frozen=True)
class Answer:
    """Committed tokens of each request, and at each the best tokens with their log-probabilities."""

    tokens: list[list[int]]
    best: list[list[list[tuple[int, float]]]]


def answer(folder: Path, device: str, dtype: str) -> Answer:
    """12 requests of uneven length, with and without budgets, in chunks of 32. Where there are no weights, random ones
    are made on the device."""
    source = random.Random(0)
    with Engine(
        folder,
        device=device,
        dtype=dtype,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_model_len=512,
        load_format="auto" if list(folder.glob("*.safetensors")) else "dummy",
        step_graphs="off" if os.environ.get(CHILD) else "auto",
    ) as engine:
        opener = engine.tokenizer.encode(PRESETS["s1"].opener, specials=True)
        prompts = [[source.randrange(engine.tokenizer.size - 3) for _ in range(5 + 17 * i)] + opener for i in range(12)]
        params = [
            SamplingParams(
                max_tokens=64,
                temperature=0.5 * (i % 2),
                seed=i,
                ignore_eos=True,
                logprobs=_BEST,
                thinking_token_budget=None if i % 3 == 0 else 12 + i,
                thinking_extensions=i % 4,
            )
            for i in range(12)
        ]
        samples = [output.outputs[0] for output in engine.generate(prompts, params)]
    return Answer(
        tokens=[sample.token_ids for sample in samples],
        best=[[[*one.top] for one in sample.logprobs or ()] for sample in samples],
    )


def by_definition(options: Options, model: str, dtype: str, device: str) -> Answer:
    """The same from a process of its own that runs the definitions."""
    words = ["--answer", f"{model}/{dtype}/{device}", "--cache", str(options.cache)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.correctness", *words],
        capture_output=True,
        text=True,
        env=os.environ | {CHILD: "reference"},
        preexec_fn=ends_with_its_parent,
    )
    if done.returncode:
        raise SystemExit(f"bench.correctness: the definitions' run failed: {done.stderr.strip()[-500:]}")
    return Answer(**json.loads(done.stdout))


def compare(ours: Answer, theirs: Answer) -> dict[str, float]:
    """Up to each request's first difference: the share of equal tokens; `gap`, how much less likely than their best
    token ours is there, by them (greedy requests: the noise of the others moves draws); `error`, the largest difference
    of log-probabilities. A token beyond their best ones is as far off as two allowances."""
    same = total = 0
    gap = error = 0.0
    for i, (a, b) in enumerate(zip(ours.tokens, theirs.tokens, strict=True)):
        shorter = min(len(a), len(b))
        first = next((at for at in range(shorter) if a[at] != b[at]), shorter)
        same, total = same + first, total + max(len(a), len(b))
        for mine, best in zip(ours.best[i][: first + 1], theirs.best[i][: first + 1], strict=False):
            error = max(error, *(abs(dict(mine).get(token, value + 2 * NEAR) - value) for token, value in best[:2]))
        if first < shorter and i % 2 == 0:
            known = dict(theirs.best[i][first])
            top = max(known.values())
            gap = max(gap, top - known.get(a[first], top - 2 * NEAR))
    return {"equal": same / total, "gap": gap, "error": error}


def training_error(device: torch.device) -> float:
    """Largest relative error of packed attention and its gradients on the device, against groups of documents by scaled
    dot product attention in float32 on the CPU."""
    dtype, tokens = torch.bfloat16 if device.type == "cuda" else torch.float32, sum(_LENGTHS)
    documents = Documents.slice(list(_LENGTHS), 0, tokens)
    torch.manual_seed(0)
    qkv, out_grad = torch.randn(tokens, 14, 64), torch.randn(tokens, 10, 64)

    def run(where: torch.device, kind: torch.dtype) -> list[torch.Tensor]:
        x = qkv.to(where, kind).requires_grad_()
        out = attend(x, (10, 2), documents.to(where))
        out.backward(out_grad.to(where, kind))
        assert x.grad is not None
        return [out.detach().float().cpu(), x.grad.float().cpu()]

    pairs = zip(run(device, dtype), run(torch.device("cpu"), torch.float32), strict=True)
    return max(float((got - want).norm() / want.norm()) for got, want in pairs)


def operator_tests(file: Path, workers: int) -> dict[str, float | None]:
    """Run one file of tests; how many passed, failed and were skipped."""
    environment, more = dict(os.environ), ["-n", str(workers)] if importlib.util.find_spec("xdist") is not None else []
    if stand_in.card() is not None:  # a part of one file, interpreted
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        more = ["-k", "silu"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, str(file)],
        cwd=record.ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    counts: dict[str, float | None] = {
        word: float((re.findall(rf"(\d+) {word}", done.stdout) or ["0"])[-1])
        for word in ("passed", "failed", "skipped")
    }
    if done.returncode not in (0, 5):
        print(f"{file.name}: {done.stdout[-3000:]}{done.stderr[-500:]}", flush=True)
        counts["failed"] = max(1.0, counts["failed"] or 0.0)
    return counts


class Run:
    """One invocation: what is asked for, what is known, and whether all was right."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        self._device, asked = stand_in.device(options.device), torch.device(options.device)
        self._machine = record.Machine.read(asked)
        self._definitions = cache(partial(by_definition, options))
        self._known = [line.case for line in options.known("correctness", asked) if line.figures["right"]]

    def all(self) -> bool:
        """Everything that is not known; whether it was right."""
        jobs: list[bool] = []
        if "tokens" in self._options.parts:
            # Two layers of the 32B shape are 5 GB, and minutes of a small processor.
            for model, dtype in product(MODELS if self._device.type == "cuda" else ("tiny",), ("float32", "bfloat16")):
                case = {"what": "tokens", "model": model, "dtype": dtype} | stand_in.products(self._device)
                if self._options.only in f"{model}/{dtype}" or stand_in.card() is not None:
                    jobs.append(self._one(case, partial(self._tokens, model, dtype)))
        if "training" in self._options.parts:
            jobs.append(self._one({"what": "packed attention and gradients"}, self._training))
        if "operators" in self._options.parts and importlib.util.find_spec("pytest") is None:
            self._console.print("pytest is not installed: the operators' tests did not run")
        elif "operators" in self._options.parts:
            which = "test_*.py" if stand_in.card() is None else "test_row_kernels.py"
            files = sorted((record.ROOT / "tests" / "kernels" / "interpreter").glob(which))
            with ThreadPoolExecutor(len(files) if self._device.type == "cuda" else 1) as pool:
                cases = [{"what": "operators' tests", "file": file.name} for file in files]
                jobs += pool.map(self._one, cases, [partial(self._operators, file) for file in files])
        return all(jobs)

    def _one(self, case: dict[str, Any], measure: Callable[[], dict[str, float | None]]) -> bool:
        if case in self._known:
            self._console.print(f"{', '.join(case.values())}: right, in the output already")
            return True
        figures = measure()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
        self._console.print(f"{', '.join(case.values())}: {shown}", highlight=False)
        self._machine.write(self._options.output, "correctness", case, figures)
        return bool(figures["right"])

    def _tokens(self, model: str, dtype: str) -> dict[str, float | None]:
        tiny = model == "tiny"
        ours = answer(checkpoint(self._options.cache, MODELS[model], weights=tiny), str(self._device), dtype)
        # The tiny model against float32 on the CPU, the large one, whose weights are made there, on the device itself.
        found = compare(ours, self._definitions(model, *(("float32", "cpu") if tiny else (dtype, str(self._device)))))
        exact = tiny and dtype == "float32"
        return {**found, "right": float(found["equal"] == 1.0 if exact else max(found["gap"], found["error"]) < NEAR)}

    def _training(self) -> dict[str, float | None]:
        error = training_error(self._device)
        return {"error": error, "right": float(error < (2e-2 if self._device.type == "cuda" else 1e-5))}

    def _operators(self, file: Path) -> dict[str, float | None]:
        counts = operator_tests(file, self._options.workers)
        return counts | {"right": float(counts["failed"] == 0)}


def main(options: Options) -> None:
    """Compare, print, append; SystemExit where something is not what the definitions say."""
    if options.answer is not None:
        model, dtype, device = options.answer.split("/")
        folder = checkpoint(options.cache, MODELS[model], weights=model == "tiny")
        print(json.dumps(vars(answer(folder, device, dtype))))
    elif not Run(options, Console()).all():
        raise SystemExit("bench.correctness: the device does not do what the definitions say; see above")


if __name__ == "__main__":
    command(Options, main)

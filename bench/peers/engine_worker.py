"""This project's engine as a timing worker; the protocol is that of `bench.peers.worker`.

A job may carry "params": fields of SamplingParams, one object for all prompts or a list with one for each. With
"window" instead of "tokens" the engine's own clock answers: {"steps": seconds of `window` steps in which every prompt
decodes and none is prefilled, "keys": what they saw per step, on average}. Pages of prompts are kept, so that the same
prompts are prefilled once.
"""

import json
import os
import statistics
import sys
import time
from typing import Any

import torch

from engine import Engine, SamplingParams
from kernels.native import library as native


def main() -> None:
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    with Engine(setup["checkpoint"], **config_of(setup)) as engine:
        operators = native.LEVEL if native.LOADED else "torch definitions"
        print(json.dumps({"version": f"CPU operators: {operators}"}), file=answers)
        for line in sys.stdin:
            job = json.loads(line)
            given = job.get("params", {"thinking_format": "none"})
            each = given if isinstance(given, list) else [given] * len(job["prompts"])
            print(json.dumps((window if "window" in job else whole)(engine, job, each)), file=answers)


def config_of(setup: dict[str, Any]) -> dict[str, Any]:
    """Fields of EngineConfig; on a GPU every step is captured before anything is timed."""
    return {
        "device": setup["device"],
        "dtype": setup["dtype"],
        "max_model_len": setup["max_model_len"],
        "max_num_seqs": setup["max_num_seqs"],
        "load_format": "dummy" if setup["dummy"] else "auto",
        "capture_at_start": setup["device"].startswith("cuda"),
        **setup["engine"],
    }


def whole(engine: Engine, job: dict[str, Any], params: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds to continue every prompt to exactly `tokens`."""
    chosen = [SamplingParams.from_dict({**one, "max_tokens": job["tokens"], "ignore_eos": True}) for one in params]
    start = time.perf_counter()
    tokens = sum(output.usage.completion_tokens for output in engine.generate(job["prompts"], chosen))
    return {"seconds": time.perf_counter() - start, "tokens": tokens}


def window(engine: Engine, job: dict[str, Any], params: list[dict[str, Any]], tries: int = 3) -> dict[str, Any]:
    """Seconds of the steps in which all prompts decode. The last prompt writes as many tokens as there are such steps;
    the others, which begin to decode while it is prefilled, could write more, and end when it does. Again where they
    began too early, so that one of them ended first."""
    prompts, steps = job["prompts"], job["window"] + 1  # a prompt's first token is drawn in a step with its prefill
    lengths = [steps + job["ahead"]] * (len(prompts) - 1) + [steps]
    prepared = [
        engine.prepare(prompt, SamplingParams.from_dict({**values, "max_tokens": length, "ignore_eos": True}))
        for prompt, values, length in zip(prompts, params, lengths, strict=True)
    ]
    for _ in range(tries):
        with engine.clocked() as times:
            handles = [engine.submit_prepared(one) for one in prepared]
            handles[-1].result()
            for handle in handles[:-1]:
                handle.abort()
                handle.result()
        full = [one for one in times if one.decodes == len(prompts) and not one.prefill][: job["window"]]
        if len(full) == job["window"]:
            break
    return {"steps": [one.seconds for one in full], "keys": statistics.mean([one.keys for one in full] or [0.0])}


if __name__ == "__main__":
    main()

"""This project's engine as a timing worker; the protocol is that of `bench.peers.worker`.

A job may carry "params": fields of SamplingParams, one object for all prompts or a list with one for each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch

from engine import Engine, SamplingParams
from kernels import native


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    config: dict[str, Any] = {
        "device": setup["device"], "dtype": setup["dtype"], "max_model_len": setup["max_model_len"],
        "max_num_seqs": setup["max_num_seqs"], "enable_prefix_caching": False,
        "load_format": "dummy" if setup["dummy"] else "auto", **setup["engine"],
    }  # fmt: skip
    with Engine(setup["checkpoint"], **config) as engine:
        path = native.LEVEL if native.LOADED else "torch definitions"
        print(json.dumps({"version": f"CPU operators: {path}"}), file=answers)
        for line in sys.stdin:
            job = json.loads(line)
            given = job.get("params", {"thinking_format": "none"})
            fixed = {"max_tokens": job["tokens"], "ignore_eos": True}
            each = given if isinstance(given, list) else [given] * len(job["prompts"])
            params = [SamplingParams.from_dict({**values, **fixed}) for values in each]
            start = time.perf_counter()
            outputs = engine.generate(job["prompts"], params)
            seconds = time.perf_counter() - start
            total = sum(output.usage.completion_tokens for output in outputs)
            print(json.dumps({"seconds": seconds, "tokens": total}), file=answers)


if __name__ == "__main__":
    main()

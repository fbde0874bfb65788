"""How fast this machine trains without a GPU: forward and backward passes of a model of the same kind, timed."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from msgspec import structs

from train.architecture import Architecture
from train.config import TrainConfig
from train.data import Dataset
from train.huggingface import initialize
from train.layout import Batch, build_batch, target_weights
from train.lora import add_lora
from train.model import Decoder
from train.parallel import DTYPES, resolved

MOST_PARAMETERS = 10e6
"""Of the model that is timed, about."""
PROBE_FLOPS, PASS_S, SECONDS = 5e8, 0.3, 1.0
"""Size of the passes that find out how much this machine does in PASS_S, what a pass then takes, and all of them."""


@dataclass(frozen=True)
class CpuRate:
    """`flops`: FLOP/s, recomputation not counted; in `dtype`, with `threads` threads."""

    flops: float
    dtype: str
    threads: int


def smaller(arch: Architecture) -> Architecture:
    """A model of at most a few MOST_PARAMETERS that spends its time as `arch` does: fewer layers and a smaller head in
    the same proportion, and only where one layer is too large a narrower one."""
    share = min(1.0, max(MOST_PARAMETERS / arch.num_parameters, 1 / arch.num_layers))
    arch = replace(
        arch, num_layers=max(1, round(arch.num_layers * share)), vocab_size=max(64, int(arch.vocab_size * share))
    )
    narrow = min(1.0, (MOST_PARAMETERS / arch.layer_parameters) ** 0.5)
    kv_heads = max(1, int(arch.num_kv_heads * narrow))
    return replace(
        arch,
        hidden_size=max(32, int(arch.hidden_size * narrow)),
        intermediate_size=max(32, int(arch.intermediate_size * narrow)),
        num_heads=kv_heads * (arch.num_heads // arch.num_kv_heads),
        num_kv_heads=kv_heads,
    )


def cpu_rate(config: TrainConfig, arch: Architecture, lengths: np.ndarray) -> CpuRate:
    """Times passes over documents of `lengths` [samples], as many as fit, for about SECONDS: in the configuration's
    number format where that is for a CPU, else in the one that suits it."""
    for_cpu = config.compute.device == "cpu" or config.compute.dtype == "auto"
    compute = config.compute if for_cpu else structs.replace(config.compute, dtype="auto")
    compute = resolved(structs.replace(config, compute=compute), torch.device("cpu")).compute
    arch = smaller(arch)
    model = Decoder(arch, compute.checkpointing, compute.loss_chunk).to(DTYPES[compute.dtype])
    if config.lora is not None:
        add_lora(model, config.lora, DTYPES[compute.dtype])
    initialize(model, arch, 0)
    frozen = config.lora is not None

    def timed(flops: float, least_s: float) -> float:
        """FLOP/s of passes of about `flops` each, for at least `least_s` seconds."""
        documents = _documents(lengths, max(16, int(flops / arch.training_flops([1], frozen))))
        batch, passes, started = _batch(documents, arch.vocab_size), 0, time.perf_counter()
        while passes == 0 or time.perf_counter() - started < least_s:
            model(batch).backward()
            passes += 1
        return passes * arch.training_flops(documents, frozen) / (time.perf_counter() - started)

    timed(PROBE_FLOPS, 0.0)  # what is made once is made here
    rate = timed(timed(PROBE_FLOPS, 0.0) * PASS_S, SECONDS)
    return CpuRate(rate, compute.dtype, torch.get_num_threads())


def _documents(lengths: np.ndarray, most: int) -> list[int]:
    """The first of `lengths` that have at most `most` tokens together; of the first one at least as many."""
    fitting = int((np.cumsum(lengths) <= most).sum())
    return [max(2, n) for n in lengths[:fitting].tolist()] or [most]


def _batch(documents: list[int], vocab: int) -> Batch:
    """Documents of any tokens, all trained."""
    total = sum(documents)
    data = Dataset(
        tuple(map(str, range(len(documents)))),
        tokens=np.arange(total, dtype=np.int32) % vocab,
        trained=np.ones(total, dtype=bool),
        offsets=np.cumsum([0, *documents], dtype=np.int64),
        targets=np.asarray(documents, dtype=np.int64) - 1,
    )
    return build_batch(data, np.arange(len(data)), target_weights(data.targets, "token_mean"))

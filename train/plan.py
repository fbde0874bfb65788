"""What a run will cost, before anything is loaded: `python -m train.plan CONFIG.yaml [a.b=c ...]`.

Prints tokens, steps, imbalance, GB per GPU, FLOPs and minutes on named GPUs, and on this machine's CPU by a rate that
it takes two seconds to measure.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import tyro

from engine.build import available_bytes
from engine.command.flags import read_flags
from engine.errors import InputError, first_line, tell
from engine.input_file import read_regular
from train.architecture import Architecture
from train.config import Lora, Model, TrainConfig, load_config
from train.cpu_rate import CpuRate, cpu_rate
from train.data import open_tokenizer, read_sets, step_samples, steps_per_epoch
from train.errors import TrainingError
from train.huggingface import find_config
from train.layout import lay_out
from train.metrics import GPUS

# Share of peak that minutes are quoted at: torchtitan reports 39.4 % for a 32B dense model on 8 H100 with FSDP and full
# activation checkpointing (its pull request 1690).
ASSUMED_MFU = 0.40
# CUDA context, communication buffers, fragmentation.
OVERHEAD_GB = 1.5


@dataclass(frozen=True)
class StepsPlan:
    """`imbalance` [steps]: the slowest group's tokens over the mean; `largest_slice`: most tokens on a rank at once."""

    per_epoch: int
    total: int
    tokens: int
    imbalance: np.ndarray
    longest_of_step: np.ndarray
    micro_batches: int
    largest_slice: int


def plan_steps(config: TrainConfig, lengths: np.ndarray, ranks: int) -> StepsPlan:
    """Lays out every step of the run for `ranks` ranks, exactly as training will. lengths [samples]."""
    parallel = config.parallel
    per_epoch = steps_per_epoch(len(lengths), config.data)
    total = config.epochs * per_epoch
    steps = [lengths[step_samples(config.seed, step, len(lengths), config.data)] for step in range(total)]
    groups, limit = ranks // parallel.context, parallel.micro_tokens * parallel.context
    layouts = [lay_out(here.tolist(), groups, limit) for here in steps]
    return StepsPlan(
        per_epoch,
        total,
        sum(sum(layout.lengths) for layout in layouts),
        imbalance=np.asarray([layout.imbalance for layout in layouts]),
        longest_of_step=np.asarray([here.max() / here.mean() for here in steps]),
        micro_batches=max(layout.micro_batches for layout in layouts),
        largest_slice=-(-max(layout.largest for layout in layouts) // parallel.context),
    )


@dataclass(frozen=True)
class MemoryPlan:
    """GB (1e9 bytes) on each GPU."""

    state: float
    """Weights, gradients and optimiser state, sharded over all ranks."""
    boundaries: float
    """The input of every layer, kept for its recomputation (all of a layer's activations without checkpointing)."""
    layer: float
    """Activations of the one layer that is being recomputed."""
    gathered: float
    """Two layers' and the head's gathered weights, one layer's gradient before and during its reduction."""
    loss: float
    """One chunk of logits and its gradient."""
    overhead: float = OVERHEAD_GB

    @property
    def total(self) -> float:
        return self.state + self.boundaries + self.layer + self.gathered + self.loss + self.overhead


def state_bytes(config: TrainConfig) -> float:
    """Bytes per trained parameter: master weight, gradient, two moments (8-bit ones carry a float32 scale per 256)."""
    master = 4 if config.compute.master_dtype == "float32" else 2
    return 2 * master + (2 * (1 + 4 / 256) if config.optim.kind == "adamw8bit" else 2 * master)


def adapter_parameters(config: Lora, arch: Architecture) -> int:
    """Parameters of the adapters, all layers."""
    q, kv = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    h, f = arch.hidden_size, arch.intermediate_size
    sizes = {
        "q_proj": h + q,
        "k_proj": h + kv,
        "v_proj": h + kv,
        "o_proj": q + h,
        "gate_proj": h + f,
        "up_proj": h + f,
        "down_proj": f + h,
    }
    return arch.num_layers * config.rank * sum(sizes[target] for target in config.targets)


def layer_values(arch: Architecture) -> int:
    """Values per token that one layer's backward pass needs: 7 H (residual stream, norms, projections' outputs),
    attention's output, q, k and v before and after rotation, and 4 F of the MLP."""
    qkv = arch.head_dim * (arch.num_heads + 2 * arch.num_kv_heads)
    return 7 * arch.hidden_size + arch.num_heads * arch.head_dim + 2 * qkv + 4 * arch.intermediate_size


def plan_memory(config: TrainConfig, arch: Architecture, ranks: int, tokens: int) -> MemoryPlan:
    """`tokens`: the most that one rank holds in a micro-batch."""
    width = 4 if config.compute.dtype == "float32" else 2
    frozen, trained = (
        (arch.num_parameters, adapter_parameters(config.lora, arch)) if config.lora else (0, arch.num_parameters)
    )
    layer = tokens * layer_values(arch) * width
    boundaries = tokens * arch.hidden_size * width * arch.num_layers
    if config.compute.checkpointing == "none":
        boundaries, layer = layer * arch.num_layers, 0
    elif config.compute.checkpointing == "selective":
        # Attention's output and every second of the seven matmuls: q, v, gate, down.
        heads = arch.head_dim * (2 * arch.num_heads + arch.num_kv_heads)
        boundaries += tokens * (heads + arch.intermediate_size + arch.hidden_size) * width * arch.num_layers
    gathered = (2 * arch.layer_parameters + arch.vocab_size * arch.hidden_size) * width
    gradient = 0 if config.lora else arch.layer_parameters * (width + 4)
    sharded = ranks > 1 or config.compute.dtype != config.compute.master_dtype
    return MemoryPlan(
        state=(frozen * width + trained * state_bytes(config)) / ranks / 1e9,
        boundaries=boundaries / 1e9,
        layer=layer / 1e9,
        gathered=(gathered + gradient) / 1e9 if sharded else 0.0,
        loss=min(config.compute.loss_chunk, tokens) * arch.vocab_size * (width + 2 * 4) / 1e9,
    )


def published_lengths(samples: int = 1000, mean: float = 4700.0, below: int = 4096, share: float = 0.26) -> np.ndarray:
    """s1K as its paper describes it: log-normal lengths of this mean, `share` of them under `below`; no dice."""
    # P(n < below) = Phi((ln below - ln mean + s^2 / 2) / s) = share, solved for s.
    z, gap = NormalDist().inv_cdf(share), np.log(mean) - np.log(below)
    quantiles = np.asarray([NormalDist().inv_cdf((i + 0.5) / samples) for i in range(samples)])
    values = np.exp((z + np.sqrt(z * z + 2 * gap)) * quantiles)
    return np.round(values * mean / values.mean()).astype(np.int64)


def read_lengths(file: Path) -> np.ndarray:
    """Token counts [samples], one per line."""
    try:
        lengths = np.asarray(read_regular(file, 1 << 28).decode("utf-8-sig").split(), dtype=np.int64)
    except InputError:
        raise
    except OSError as error:
        raise TrainingError(
            f"--lengths is {file}, which cannot be read ({error.strerror}); give a file with one token count per line, "
            "or s1k"
        ) from error
    except (ValueError, OverflowError) as error:
        raise TrainingError(f"{file}: must hold one token count per line: {first_line(error)}") from error
    if len(lengths) == 0 or lengths.min() < 1:
        raise TrainingError(f"{file}: must hold one token count per line, each above 0")
    return lengths


def _time(seconds: float) -> str:
    """In minutes, or in seconds where those would be few."""
    if seconds >= 120:
        return f"{seconds / 60:8,.1f} minutes"
    return f"{seconds:8.1f} seconds" if seconds >= 1 else f"{seconds:8.1g} seconds"


def report(config: TrainConfig, arch: Architecture, lengths: np.ndarray, ranks: int, source: str, cpu: CpuRate) -> str:
    """The plan as text."""
    steps = plan_steps(config, lengths, ranks)
    memory = plan_memory(config, arch, ranks, steps.largest_slice)
    tokens, matmul = steps.tokens, (4.0 if config.lora else 6.0) * arch.matmul_parameters
    attention = arch.attention_flops(lengths.tolist()) * tokens / float(lengths.sum())
    total = matmul * tokens + attention
    state, free = memory.state * ranks, available_bytes() / 1e9
    room = "fits" if state <= free else f"does NOT fit its {free:.0f} GB"
    gpus = (
        f"  {ranks} x {gpu.name:6s} {_time(total / (ASSUMED_MFU * gpu.peak_flops * ranks))}, "
        + ("fits" if memory.total * 1e9 <= gpu.memory else f"does NOT fit its {gpu.memory / 1e9:.0f} GB")
        for gpu in GPUS
        if gpu.peak_flops
    )
    lines = [
        f"model       {arch.num_parameters:,} parameters ({arch.num_parameters / 1e9:.1f}B), "
        f"{arch.matmul_parameters:,} in matmuls",
        f"samples     {len(lengths):,} ({source}), {int(lengths.sum()):,} tokens, mean {lengths.mean():,.0f}, "
        f"longest {int(lengths.max()):,}, {100 * float((lengths < 4096).mean()):.0f} % under 4,096",
        f"steps       {steps.per_epoch} per epoch, {steps.total} in all, {config.data.batch_size} samples each, "
        f"{tokens:,} tokens",
        f"layout      {ranks} ranks = {ranks // config.parallel.context} groups x {config.parallel.context}, "
        f"{steps.micro_batches} micro-batch(es), at most {steps.largest_slice:,} tokens on a rank",
        f"imbalance   mean {steps.imbalance.mean():.3f}, worst {steps.imbalance.max():.3f} "
        f"(one sample per rank would wait for the longest: mean {steps.longest_of_step.mean():.2f})",
        "memory      GB per GPU",
        f"  state       {memory.state:8.1f}   {state_bytes(config):.0f} bytes per trained parameter over {ranks} ranks",
        f"  boundaries  {memory.boundaries:8.1f}   checkpointing: {config.compute.checkpointing}",
        f"  one layer   {memory.layer:8.1f}",
        f"  gathered    {memory.gathered:8.1f}",
        f"  loss chunk  {memory.loss:8.1f}   {config.compute.loss_chunk} rows (all logits at once would be "
        f"{steps.largest_slice * arch.vocab_size * 6 / 1e9:.1f})",
        f"  overhead    {memory.overhead:8.1f}",
        f"  total       {memory.total:8.1f}",
        f"FLOPs       {matmul:.3g} per token in matmuls + {attention / tokens:.3g} in attention "
        f"({100 * attention / total:.0f} %); {total:.3g} in all",
        f"time        at {100 * ASSUMED_MFU:.0f} % of peak, which is assumed, not measured, and without start-up",
        *gpus,
        f"  this CPU    {_time(total / cpu.flops)}, {room}; {cpu.flops / 1e9:.1f} GFLOP/s in {cpu.dtype}, "
        f"{cpu.threads} thread(s): measured now, on a smaller model of this kind",
    ]
    return "\n".join(lines)


def shape_of(model: Model) -> Path:
    """The model's config.json. Raises TrainingError where it is not at hand, with the way to do without it."""
    try:
        return find_config(model)
    except InputError as error:
        raise TrainingError(f"{error}; for a plan its shape is enough: --shape CONFIG.json") from error


@dataclass(frozen=True)
class Arguments:
    """A configuration, and what it is planned for."""

    config: tyro.conf.Positional[Path]
    """Configuration (YAML)."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """section.name=value"""
    shape: Path | None = None
    """A config.json, when the model's own is not at hand."""
    lengths: str | None = None
    """File with one token count per line, or `s1k`: the published length model."""
    ranks: int | None = None
    """GPUs; None: parallel.ranks of the configuration."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit code: 0, or 2 for input that cannot be used."""
    try:
        arguments = read_flags(Arguments, argv, "python -m train.plan", __doc__)
        config = load_config(arguments.config, arguments.overrides)
        ranks = config.parallel.ranks if arguments.ranks is None else arguments.ranks
        if ranks < 1:
            raise InputError(f"--ranks is {ranks}; give 1 or more")
        if ranks % config.parallel.context:
            raise TrainingError(f"parallel.context = {config.parallel.context} does not divide {ranks} ranks")
        config_file = arguments.shape or shape_of(config.model)
        arch = Architecture.load(config_file)
        if arguments.lengths == "s1k":
            lengths, source = published_lengths(), "published lengths of s1K: log-normal"
        elif arguments.lengths:
            lengths, source = read_lengths(Path(arguments.lengths)), arguments.lengths
        else:
            data, heldout = read_sets(config.data, open_tokenizer(config.model, config_file), arch.vocab_size)
            source = f"{', '.join(config.data.train)}, {len(data.dropped)} dropped as too long"
            if heldout is not None:
                source += f", {len(heldout):,} held out"
                source += f", {shared:,} of which are trained on too" if (shared := heldout.of_which_in(data)) else ""
            lengths = data.lengths
        print(report(config, arch, lengths, ranks, source, cpu_rate(config, arch, lengths)))
    except (InputError, OSError) as error:
        tell(error, "train.plan")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

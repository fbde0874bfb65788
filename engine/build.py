"""From a configuration and a checkpoint directory to a loaded core: every rank calls `build_core` alike."""

import os
import re
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.core import Core
from engine.errors import InputError, refuse, shown
from engine.model import weights
from engine.model.adapter import read_adapter
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.model.gguf_header import is_gguf
from engine.model.shard import Shard
from engine.model.weights import Precision
from engine.ranks.group import Group
from engine.ranks.torchrun import torchrun
from engine.schedule.page_pool import PagePool
from engine.schedule.scheduler import Scheduler
from engine.step.runner import Runner
from engine.step.slots import SlotTables
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import resolve_format
from engine.timeline import Timeline
from kernels.errors import FAULTS
from kernels.limits import pool_bytes
from kernels.quantize import FLOAT8
from kernels.thinking_tables import traits_of

_PAGE_BYTES, _LOGITS = 256, 4
"""Of a page on the host, beside its keys and values; copies of a row's logits that a draw makes, in float32."""


def resolve_device(device: str) -> str:
    """`cpu` or `cuda`/`cuda:N` for what the configuration says. Raises InputError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", device):
        raise InputError(f"device is {shown(device)}; give auto, cpu, cuda or cuda:N")
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {device!r} and this machine has {torch.cuda.device_count()} CUDA devices; give another, or cpu"
        )
    return device


def model_length(config: EngineConfig, model: ModelConfig) -> int:
    """max_model_len, by default the model's own. Raises InputError where it is longer than that."""
    if config.max_model_len is None:
        return model.context_length
    if config.max_model_len > model.context_length:
        raise InputError(
            f"max_model_len is {config.max_model_len} and the model's positions end at "
            f"{model.context_length}; lower it, or set rope_scaling in config.json"
        )
    return config.max_model_len


def context_limit(config: EngineConfig, model: ModelConfig) -> int:
    """The context as far as it is known before anything is loaded; `kv_cache_tokens` bounds it where it is given."""
    length, size = model_length(config, model), config.page_size
    return length if config.kv_cache_tokens is None else min(length, config.kv_cache_tokens // size * size)


def _description(directory: Path) -> Path:
    """The file that says what the model is."""
    return directory if is_gguf(directory) else directory / "config.json"


def check_config(config: EngineConfig, directory: Path, tokenizer: Tokenizer) -> None:
    """Raises InputError for what can be known to be wrong before the weights are read."""
    refuse(*((True, fault) for fault in FAULTS))
    model = ModelConfig.load(directory, config.dtype, config.device)
    if model.vocab_size < tokenizer.size:
        raise InputError(
            f"{_description(directory)}: vocab_size is {model.vocab_size} and the tokenizer has "
            f"{tokenizer.size} tokens; give the tokenizer that belongs to these weights"
        )
    model_length(config, model)
    Shard.of(model, 0, config.tensor_parallel_size)
    resolve_format(config.thinking_format, tokenizer)
    ranks = max(config.tensor_parallel_size, torchrun().size)
    device = resolve_device(config.device)
    refuse(
        (
            config.one_shot_all_reduce and (ranks == 1 or device == "cpu"),
            "one_shot_all_reduce is set and there is one rank, or the device is the CPU; it is for "
            "tensor_parallel_size above 1 on CUDA",
        ),
        (
            config.kv_cache_tokens is not None and config.kv_cache_tokens < config.page_size,
            f"kv_cache_tokens is {config.kv_cache_tokens}, less than a page of {config.page_size}; raise it",
        ),
    )
    if device == "cpu":  # of a GPU, only the rank that uses it may ask what is free
        check_sizes(config, model, free_bytes(torch.device(device), ranks), ranks, "this machine")


def check_weights(config: EngineConfig, directory: Path, model: ModelConfig) -> None:
    """Raises InputError where the weights are not those that config.json describes, by their files' headers alone (an
    adapter is read), or where a CPU's memory cannot hold them: before a process is started and the model allocated."""
    if config.load_format == "auto":
        weights.check(directory, model, read_adapter(config.adapter))
    width = model.dtype.itemsize if config.quantization == "none" else 1
    wanted, free = model.num_parameters * width, available_bytes()
    if resolve_device(config.device) == "cpu" and wanted > free:
        raise InputError(
            f"{_description(directory)} describes {wanted / 2**30:,.1f} GiB of weights and {free / 2**30:,.1f} GiB "
            "of this machine are free; give a smaller model, or another device"
        )


def refuse_scorer(model: ModelConfig, name: str) -> None:
    """Raises InputError where the model scores and does not write."""
    if model.score is not None:
        raise InputError(f"{shown(name)} is a reward model, which writes nothing; use Engine.score")


def check_sizes(config: EngineConfig, model: ModelConfig, free: int, ranks: int, where: str) -> None:
    """Raises InputError where what the flags have allocated (pages, slots, a step's activations) is more than the
    `free` bytes of `where`; names the flag that takes most of it, and how much."""
    length, size, width = model_length(config, model), config.page_size, model.dtype.itemsize
    given, slots = config.kv_cache_tokens, config.max_num_seqs
    context = length if given is None else min(length, given)
    pool = slots * length if given is None else given
    values = 2 * model.num_layers * Shard.of(model, 0, ranks).num_kv_heads * model.head_dim
    page = size * values * (1 if config.kv_cache_dtype == "fp8" else width) + _PAGE_BYTES
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    slot = 4 * (context + 2 * -(-context // size) + _LOGITS * model.vocab_size)
    token = width * (6 * model.hidden_size + 2 * heads + 3 * model.intermediate_size)
    takes = {
        "page_size" if given is None else "kv_cache_tokens": page * (2 if given is None else 1 + given // size),
        "max_num_seqs": slots * slot,
        "max_num_batched_tokens": min(config.max_num_batched_tokens, pool) * token // ranks,
    }
    name = max(takes, key=lambda name: takes[name])
    if sum(takes.values()) > free:
        raise InputError(
            f"{name} is {getattr(config, name)} and takes {takes[name] / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB are "
            f"free on {where}, lower it"
        )


def precision(config: EngineConfig) -> Precision:
    """The dtypes behind `quantization` and `kv_cache_dtype`."""
    return Precision(
        weights={"none": None, "int8": torch.int8, "fp8": FLOAT8}[config.quantization],
        kv={"auto": None, "fp8": FLOAT8}[config.kv_cache_dtype],
    )


def build_core(
    config: EngineConfig, directory: Path, tokenizer: Tokenizer, group: Group, timeline: Timeline | None = None
) -> Core:
    """Load the rank's part of the model and put scheduler, runner and page pool around it; `timeline` gets the laps."""
    timeline = timeline or Timeline()
    model = ModelConfig.load(directory, config.dtype, config.device)
    length = model_length(config, model)
    if config.one_shot_all_reduce:
        group.use_one_shot(model.dtype)
    positions = context_limit(config, model)
    timeline.lap("ranks")
    decoder = Decoder.load(
        directory,
        model,
        group,
        positions,
        config.load_format,
        config.seed,
        precision(config),
        timeline,
        config.adapter,
    )
    size = config.page_size
    pool = PagePool(_num_pages(config, decoder, group, length, size) + 1, size, config.enable_prefix_caching)
    context = min(length, pool.capacity)
    core = assemble(config, decoder, pool, decoder.new_kv_cache(pool.num_pages, size), tokenizer, context, group)
    timeline.lap("page pool, tables")
    if config.capture_at_start:
        core.runner.capture_at_start()
        timeline.lap("graphs", core.runner.capture_report.bytes)
    return core


def assemble(
    config: EngineConfig,
    model: Decoder,
    pool: PagePool,
    kv: list[tuple[torch.Tensor, torch.Tensor]],
    tokenizer: Tokenizer,
    context: int,
    group: Group,
) -> Core:
    """Scheduler, slot tables and runner around a loaded model."""
    # A checkpoint may have more embedding rows than its tokenizer has tokens (Qwen2.5): those are never drawn.
    traits = torch.zeros(tokenizer.size, dtype=torch.uint8)
    for token_id in tokenizer.maybe_blank():  # most tokens have none, and a vocabulary has 150,000
        traits[token_id] = traits_of(tokenizer.token_bytes(token_id))
    tables = SlotTables(
        group.device,
        config.max_num_seqs,
        context,
        pool.page_size,
        model.config.vocab_size,
        tokenizer.eos_token_ids,
        traits,
        tokenizer.token_bytes,
    )
    tables.register(resolve_format(config.thinking_format, tokenizer))
    scheduler = Scheduler(pool, config.max_num_seqs, config.max_num_batched_tokens)
    on_cuda = group.device.type == "cuda"
    graphs = on_cuda if config.step_graphs == "auto" else config.step_graphs == "on"
    runner = Runner(model, kv, tables, pool.page_size, graphs)
    return Core(scheduler, runner, on_cuda if config.overlap is None else config.overlap)


def _num_pages(config: EngineConfig, decoder: Decoder, group: Group, length: int, size: int) -> int:
    """Pages of the pool, the dummy page not counted; the same on every rank."""
    free, page_bytes = free_bytes(group.device, group.size), decoder.kv_bytes_per_token * size
    error = None
    try:
        check_sizes(config, decoder.config, free, group.size, f"{group.device} after the weights")
    except InputError as caught:
        error = caught
    group.agree(error)
    pages = pages_that_fit(config, free, group.device.type, page_bytes, length, size)
    if group.size > 1:
        pages = int(group.all_gather_last_dim(torch.tensor([pages], device=group.device)).min())
    if pages < 1:
        raise InputError(
            f"no memory is left for the KV cache on {group.device} after the weights; "
            "use more devices or a smaller model"
        )
    return pages


def pages_that_fit(config: EngineConfig, free: int, kind: str, page_bytes: int, length: int, size: int) -> int:
    """Pages of `page_bytes` in `free` bytes on a device of `kind`: what the configuration says, else what its share of
    memory holds (`kernels.limits.pool_bytes`), at most `max_num_seqs` full lengths."""
    if config.kv_cache_tokens is not None:
        return config.kv_cache_tokens // size
    return min(config.max_num_seqs * -(-length // size), pool_bytes(free, kind == "cuda") // page_bytes)


def free_bytes(device: torch.device, ranks: int) -> int:
    """Memory that can be had now: of the GPU, or of the machine, shared by the ranks."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_bytes() // ranks


def available_bytes() -> int:
    """Memory of the machine that can be had without swapping, files that it keeps cached included."""
    told = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", told.read_text(), re.MULTILINE) if told.exists() else None
    return int(found[1]) << 10 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

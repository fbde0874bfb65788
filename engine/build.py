"""From a configuration and a checkpoint directory to a loaded core: every rank calls `build_core` alike."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.core import Core
from engine.errors import InputError
from engine.kv_cache import PagePool
from engine.model import Decoder
from engine.model_config import ModelConfig
from engine.parallel import Group
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.shard import Shard
from engine.slots import SlotTables
from engine.text import Tokenizer
from engine.thinking import resolve_format

_CPU_SHARE, _CUDA_SHARE = 0.25, 0.92
"""Of the memory that is free once the weights are loaded, what the page pool may take if nothing else is said."""
_CUDA_SCRATCH_BYTES = 2 << 30
"""Left free on a GPU for activations, logits and the libraries' workspaces."""


def resolve_device(device: str) -> str:
    """`cpu` or `cuda`/`cuda:N` for what the configuration says. Raises InputError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise InputError(f"device is {device!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r} and this machine has {torch.cuda.device_count()} CUDA devices; "
                         "give another, or cpu")
    return device


def model_length(config: EngineConfig, model: ModelConfig) -> int:
    """max_model_len, by default the model's own. Raises InputError where it is longer than that."""
    if config.max_model_len is None:
        return model.context_length
    if config.max_model_len > model.context_length:
        raise InputError(f"max_model_len is {config.max_model_len} and the model's positions end at "
                         f"{model.context_length}; lower it, or set rope_scaling in config.json")
    return config.max_model_len


def context_limit(config: EngineConfig, model: ModelConfig) -> int:
    """The context as far as it is known before anything is loaded; `kv_cache_tokens` bounds it where it is given."""
    length = model_length(config, model)
    return length if config.kv_cache_tokens is None else min(length, config.kv_cache_tokens)


def check_config(config: EngineConfig, directory: Path, tokenizer: Tokenizer) -> None:
    """Raises InputError for what can be known to be wrong before the weights are read."""
    model = ModelConfig.load(directory, config.dtype)
    model_length(config, model)
    Shard.of(model, 0, config.tensor_parallel_size)
    resolve_format(config.thinking_format, tokenizer)
    if config.kv_cache_tokens is not None and config.kv_cache_tokens < _page_size(config, config.device):
        raise InputError(f"kv_cache_tokens is {config.kv_cache_tokens}, less than a page of "
                         f"{_page_size(config, config.device)}; raise it")


def _page_size(config: EngineConfig, device: str) -> int:
    return config.page_size or (16 if resolve_device(device) == "cpu" else 64)


def build_core(config: EngineConfig, directory: Path, tokenizer: Tokenizer, group: Group) -> Core:
    """Load the rank's part of the model and put scheduler, runner and page pool around it."""
    model = ModelConfig.load(directory, config.dtype)
    length = model_length(config, model)
    decoder = Decoder.load(directory, model, group, length, config.load_format, config.seed)
    page_size = _page_size(config, group.device.type)
    pages = _num_pages(config, decoder, group, length, page_size)
    pool = PagePool(pages + 1, page_size, config.enable_prefix_caching)
    context = min(length, pool.capacity)
    return assemble(config, decoder, pool, decoder.new_kv_cache(pool.num_pages, page_size), tokenizer, context, group)


def assemble(
    config: EngineConfig, model: Decoder, pool: PagePool, kv: list[tuple[torch.Tensor, torch.Tensor]],
    tokenizer: Tokenizer, context: int, group: Group,
) -> Core:  # fmt: skip
    """Scheduler, slot tables and runner around a loaded model."""
    # A checkpoint may have fewer embedding rows than its tokenizer has tokens, or (Qwen2.5) more.
    vocab = min(tokenizer.size, model.config.vocab_size)
    ends_line = torch.tensor([tokenizer.token_bytes(i).endswith(b"\n") for i in range(vocab)])
    tables = SlotTables(
        group.device, config.max_num_seqs, context, pool.page_size, model.config.vocab_size, tokenizer.eos_token_ids,
        ends_line,
    )  # fmt: skip
    scheduler = Scheduler(pool, config.max_num_seqs, config.max_num_batched_tokens)
    overlap = group.device.type == "cuda" if config.overlap is None else config.overlap
    return Core(scheduler, Runner(model, kv, tables, pool.page_size), overlap)


def _num_pages(config: EngineConfig, decoder: Decoder, group: Group, length: int, page_size: int) -> int:
    """Pages of the pool, the dummy page not counted; the same on every rank."""
    if config.kv_cache_tokens is not None:
        return config.kv_cache_tokens // page_size
    page_bytes = decoder.kv_bytes_per_token * page_size
    fits = torch.tensor([_free_bytes(group) // page_bytes], device=group.device)
    wanted = config.max_num_seqs * -(-length // page_size)
    pages = min(wanted, int(group.all_gather_last_dim(fits).min()))
    if pages < 1:
        raise InputError(f"no memory is left for the KV cache on {group.device} after the weights; "
                         "use more devices or a smaller model")
    return pages


def _free_bytes(group: Group) -> int:
    if group.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(group.device)
        return max(0, int(free * _CUDA_SHARE) - _CUDA_SCRATCH_BYTES)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(free * _CPU_SHARE / group.size)

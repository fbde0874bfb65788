"""Hugging Face directories in and out, through PyTorch's own safetensors reader and writer: each rank reads and writes
its own shards, no rank ever holds the whole model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from engine.errors import InputError, shown
from engine.hub_card import CARD, is_edited
from engine.json_file import read_object
from engine.model.checkpoint import read_tensors, resolve
from engine.model.gguf_header import is_gguf
from train.architecture import Architecture
from train.config import Model
from train.errors import RunFailed, TrainingError
from train.lora import LoraLinear, adapter_bound
from train.model import Decoder

# Bytes of one exported file.
FILE_BYTES = 5e9
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def failure(error: BaseException, folder: Path) -> str:
    """What went wrong on the first rank that failed to write to `folder`, out of DCP's collected errors.

    A full disk reaches us as "unexpected pos" of torch's zip writer, so the room that is left is told too.
    """
    failures = getattr(error, "failures", None)
    cause = next((cause for cause, _ in failures.values()), error) if failures else error
    return f"{' '.join(str(cause).split())} ({shutil.disk_usage(folder).free / 1e9:.3f} GB are free there)"


def find_config(model: Model) -> Path:
    """config.json of `model.path`, a directory or a hub id (downloaded if needed), or the file that is `model.init`.

    Raises InputError naming the setting for a model that is not there, and for a GGUF file.
    """
    if model.path is None:
        return Path(model.init or "")
    try:
        folder = resolve(model.path)
    except InputError as error:
        raise TrainingError(f"model.path: {error}") from error
    if is_gguf(folder):
        raise InputError(f"model.path is {shown(model.path)}, a GGUF file; give the folder of the safetensors model")
    return folder / "config.json"


def check_weights(model: Decoder, folder: Path) -> None:
    """Raises InputError, naming the tensor, unless `folder` holds what `model` has; nothing needs to be allocated."""
    wanted = _loaded(model)
    tied = ("lm_head.weight",) if model.arch.tie_word_embeddings else ()  # some exporters write the copy
    stored = {name: tensor.shape for name, tensor in read_tensors(folder).items() if name not in tied}
    for name, tensor in wanted.items():
        if name not in stored:
            raise TrainingError(f"{folder}: tensor {name} is missing; config.json and weights do not belong together")
        if stored[name] != tuple(tensor.shape):
            raise TrainingError(
                f"{folder}: {name} has shape {stored[name]}, config.json asks for {tuple(tensor.shape)}"
            )
    extra = sorted(set(stored) - set(wanted))
    if extra:
        raise TrainingError(
            f"{folder}: tensor {extra[0]} is in the checkpoint but not in a {model.arch.model_type} model"
        )


def load_weights(model: Decoder, folder: Path) -> None:
    """Reads `folder`'s weights, checked before, into the (sharded, allocated) model, cast to its dtype; every rank
    reads its part."""
    dcp.load(_loaded(model), storage_reader=dcp.HuggingFaceStorageReader(str(folder)))


def _loaded(model: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}


KEPT = 0.95
"""Of what was learned, what an export must keep."""


@torch.no_grad()
def kept_by_rounding(model: Decoder, folder: Path, dtype: torch.dtype) -> float:
    """The share of what was learned since `folder`'s weights that is left when the weights are rounded to `dtype`:
    (change after rounding . change) / |change|^2 over all of them; 1 where nothing changed (collective).

    Steps smaller than half the distance of two numbers of `dtype` are taken back by rounding: 2^-9 of a weight's size
    in bfloat16.
    """
    left, whole = torch.zeros(()), torch.zeros(())
    for before, after in _changes(model, folder):
        learned, rounded = after - before, after.to(dtype).float() - before
        left += _total(learned * rounded)
        whole += _total(learned * learned)
    return float(left / whole) if whole > 0 else 1.0


def _total(values: torch.Tensor) -> torch.Tensor:
    total = values.sum(dtype=torch.float32)
    return (total.full_tensor() if isinstance(total, DTensor) else total).cpu()


def _changes(model: Decoder, folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(before, after) in float32 of every tensor that was trained, one at a time."""
    adapted = [module for module in model.modules() if isinstance(module, LoraLinear)]
    if adapted:
        yield from ((module.weight.float(), module.merged()) for module in adapted)
        return
    reader = dcp.HuggingFaceStorageReader(str(folder))
    for name, tensor in model.state_dict().items():
        before = torch.empty_like(tensor)
        dcp.load({name: before}, storage_reader=reader)
        yield before.float(), tensor.detach().float()


@torch.no_grad()
def initialize(model: nn.Module, arch: Architecture, seed: int, adapters_only: bool = False) -> None:
    """Random weights, alike for any number of ranks: normal(0, initializer_range), norms 1, biases and LoRA's B 0."""
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if adapters_only and "lora_" not in name:
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        whole = torch.empty(parameter.shape, dtype=torch.float32)
        if name.endswith(("norm.weight", "bias", "lora_B.weight")):
            whole.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        elif name.endswith("lora_A.weight"):
            whole.uniform_(-adapter_bound(whole), adapter_bound(whole), generator=generator)
        else:
            whole.normal_(0.0, arch.initializer_range, generator=generator)
        whole = whole.to(device=parameter.device, dtype=parameter.dtype)
        if isinstance(parameter, DTensor):
            whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(whole)


def export(
    tensors: dict[str, torch.Tensor], folder: Path, config_file: Path, dtype: torch.dtype, tokenizer: Path
) -> None:
    """Writes `tensors` (sharded or not) as a Hugging Face directory that transformers, vLLM and the engine load.

    `config_file`: the model's config.json; the files beside it and in the `tokenizer` directory are copied. Written
    beside `folder` and renamed at the end, so a directory of this name is always whole; of one that was there before
    only a card that someone has edited stays.
    """
    partial = folder.with_name(folder.name + ".partial")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    tensors = {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}
    files, filled, mapping = 1, 0.0, {}
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > FILE_BYTES:
            files, filled = files + 1, 0.0
        filled += size
        mapping[name] = files
    try:
        dcp.save(
            tensors,
            storage_writer=dcp.HuggingFaceStorageWriter(
                str(partial), fqn_to_index_mapping=mapping, save_distributed=True, enable_consolidation=True
            ),
        )
    except (OSError, dcp.api.CheckpointException) as error:
        message = f"writing {folder} failed: {failure(error, folder.parent)}"
        shutil.rmtree(partial, ignore_errors=True)
        raise RunFailed(f"{message}; the checkpoint is intact: make room and run the same command") from error
    dist.barrier()
    if first:
        shutil.rmtree(partial / "sharded", ignore_errors=True)  # the writer's own intermediate files
        config: dict[str, Any] = dict(read_object(config_file))
        config.setdefault("architectures", [config["model_type"].capitalize() + "ForCausalLM"])
        # transformers 5 and before read different names
        config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for file in (place / name for place in (config_file.parent, tokenizer) for name in COPIED):
            if file.is_file():  # the tokenizer's own last, over those of the model
                shutil.copyfile(file, partial / file.name)
        if is_edited(folder):
            shutil.copy2(folder / CARD, partial / CARD)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    dist.barrier()

"""Ranks: one process group, FSDP2 over all of them, context-parallel groups of neighbours inside."""

import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from msgspec import structs
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from engine.errors import EngineDead
from engine.ranks.secret import LOOPBACK, prove, ranks_secret
from engine.ranks.torchrun import one_machine, torchrun
from kernels.native import library as native
from train.config import Compute, TrainConfig
from train.errors import RunFailed, TrainingError
from train.model import Block, Decoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolved(config: TrainConfig, device: torch.device) -> TrainConfig:
    """`config` with the number format that suits `device` where compute.dtype is `auto`."""
    if config.compute.dtype != "auto":
        return config
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)  # cards before Ampere only imitate it
    else:
        fast = native.LOADED and native.LEVEL == "avx512_bf16"
    compute = structs.replace(config.compute, dtype="bfloat16" if fast else "float32")
    return structs.replace(config, compute=compute)


@dataclass(frozen=True)
class World:
    """This process among all: data-parallel group `group` of `groups`, `context_rank` of `context` inside it."""

    rank: int
    size: int
    context: int
    device: torch.device
    mesh: DeviceMesh
    context_group: dist.ProcessGroup | None
    secret: bytes = field(default=b"", repr=False)

    @property
    def groups(self) -> int:
        return self.size // self.context

    @property
    def group(self) -> int:
        return self.rank // self.context

    @property
    def context_rank(self) -> int:
        return self.rank % self.context

    @property
    def first(self) -> bool:
        return self.rank == 0

    def host_group(self) -> dist.ProcessGroup:
        """Another group of all ranks, for messages between their hosts (collective)."""
        group = dist.new_group(backend="gloo")
        _prove(self.secret, group, torch.device("cpu"))
        return group

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            dist.all_reduce(values)
        return values


def join_world(config: TrainConfig) -> World:
    """Joins torchrun's ranks (once per process), or makes a world of one process, for which no port is opened."""
    rank, size, local_rank = torchrun()
    context = config.parallel.context
    cuda = torch.cuda.is_available() if config.compute.device == "auto" else config.compute.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise TrainingError("compute.device is cuda, but no GPU is at hand; set compute.device=cpu")
    if size % context:
        raise TrainingError(f"parallel.context = {context} does not divide the world of {size} ranks")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
        # Restarted ranks would read the addresses of dead ones from the kept store and wait for them: pytorch #135712.
        raise TrainingError("torchrun --max-restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment")
    secret = ranks_secret(one_machine()) if size > 1 else b""
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Gloo beside NCCL: asynchronous checkpoints coordinate on the host.
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
        if size > 1 and one_machine():
            os.environ.update(LOOPBACK)
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **alone)
        assert dist.group.WORLD is not None
        for kind in ("cpu", "cuda") if cuda else ("cpu",):
            _prove(secret, dist.group.WORLD, torch.device(kind))
    grid = init_device_mesh(device.type, (size // context, context), mesh_dim_names=("dp", "cp"))
    for name in ("dp", "cp"):
        _prove(secret, grid[name].get_group(), device)
    context_group = grid["cp"].get_group() if context > 1 else None
    return World(
        rank,
        size,
        context,
        device,
        mesh=init_device_mesh(device.type, (size,), mesh_dim_names=("fsdp",)),
        context_group=context_group,
        secret=secret,
    )


def _prove(secret: bytes, group: dist.ProcessGroup, device: torch.device) -> None:
    try:
        prove(secret, group, device)
    except EngineDead as error:
        raise RunFailed(str(error)) from error


def leave_world() -> None:
    """Leaves the process group, once every rank has come here (collective)."""
    # Without the barrier a rank may tear the group down while another still uses it, and that one aborts.
    dist.barrier()
    dist.destroy_process_group()


def shard(model: Decoder, world: World, compute: Compute) -> None:
    """Compiles and shards in place. One process in one dtype keeps plain tensors: nothing to shard or cast."""
    if compute.compile:
        for block in model.model.layers:
            assert isinstance(block, Block)
            block.before = torch.compile(block.before, dynamic=True)  # type: ignore[method-assign]
            block.after = torch.compile(block.after, dynamic=True)  # type: ignore[method-assign]
    model.context_group = world.context_group
    if world.size == 1 and compute.dtype == compute.master_dtype:
        return
    # Activations have the compute dtype from the embedding on; casting inputs would spoil angles and loss weights.
    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[compute.dtype], reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.model.layers:
        fully_shard(block, mesh=world.mesh, mp_policy=policy)
    if not model.arch.tie_word_embeddings:
        fully_shard(model.model.embed_tokens, mesh=world.mesh, mp_policy=policy)
        # The head is needed again at once by the backward pass.
        fully_shard(model.lm_head, mesh=world.mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=world.mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the whole step's counts, so gradients are summed, not averaged.
            # (Gloo has no PREMUL_SUM, hence the plain sum.)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

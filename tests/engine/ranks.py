"""What the ranks of the tensor-parallel tests run. Apart from the tests: a rank's process imports only this."""

import os
from multiprocessing import SimpleQueue
from pathlib import Path

import torch
import torch.distributed as dist

from engine.errors import EngineDead, InputError
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.ranks.group import Group
from engine.ranks.secret import on_loopback
from tests.engine.steps import random_sequences, run_mixed


def decoder_logits(group: Group, directory: Path, load_format: str) -> list[torch.Tensor]:
    """Loads the rank's part and runs mixed steps; logits of every position of three sequences."""
    decoder = Decoder.load(directory, ModelConfig.load(directory), group, 512, load_format, seed=3)
    return run_mixed(decoder, random_sequences(decoder.config.vocab_size, [1, 30, 50]))


def everything_worker(group: Group, cases: list[tuple[Path, str]], torn: Path, output: Path) -> None:
    """Every collective once, the logits of every (directory, load_format), a checkpoint that cannot be loaded, one
    after the other in the same group; what came out, for the test to compare."""
    rows = torch.arange(6.0).view(3, 2) + 100 * group.rank
    messages = (b"plan", b"", b"x" * 70_000)
    results: dict[str, object] = {
        "sum": group.all_reduce(rows.clone()),
        "bf16": group.all_reduce(rows.bfloat16()),
        "gathered": group.all_gather_last_dim(rows),
        "bytes": [group.broadcast_bytes(data if group.rank == 0 else None).decode() for data in messages],
    }
    group.barrier()
    try:
        group.agree(InputError("shard 1 is torn") if group.rank == 1 else None)
    except InputError as error:
        results["agreed"] = str(error)
    results["logits"] = [decoder_logits(group, directory, load_format) for directory, load_format in cases]
    try:
        decoder_logits(group, torn, "auto")
    except InputError as error:
        results["torn"] = str(error)
    torch.save(results, output / f"rank{group.rank}.pt")


def one_shot_worker(group: Group, output: Path) -> None:
    """Sums with residual and norm over NCCL, then the same through symmetric memory, one of them in a CUDA graph."""
    group.use_one_shot(torch.bfloat16)
    generator = torch.Generator(group.device).manual_seed(group.rank)
    parts = torch.randn(6, 9, 5120, device=group.device, generator=generator).bfloat16()
    weight, residual = torch.ones(5120, device=group.device).bfloat16(), torch.ones_like(parts[0])
    one_shot = [group.all_reduce_norm(part.clone(), weight, 1e-6, residual) for part in parts]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [group.all_reduce_norm(part, weight, 1e-6, residual) for part in parts]
    graph.replay()
    group._one_shot = None
    nccl = [group.all_reduce_norm(part.clone(), weight, 1e-6, residual) for part in parts]
    torch.cuda.synchronize()
    results = {"one_shot": one_shot, "captured": captured, "nccl": nccl}
    torch.save(
        {name: torch.stack([h for _, h in pairs]).cpu() for name, pairs in results.items()},
        output / f"rank{group.rank}.pt",
    )


def waiting_worker(group: Group) -> None:
    group.broadcast_bytes(None)


def impostors_worker(store: str, said: "SimpleQueue[tuple[int, str]]") -> None:
    """Two processes, of one start of the interpreter, join each with a secret of its own and tell what that came to."""
    child = os.fork()
    rank = int(child == 0)
    try:
        with on_loopback():
            Group(rank, 2, torch.device("cpu"), dist.FileStore(store, 2), b"secret of %d" % rank)
    except EngineDead as error:
        said.put((rank, str(error)))
    if child:
        os.waitpid(child, 0)

"""Tensor parallelism: one process per device, and how they talk."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from engine.errors import EngineDead, InputError, first_line
from engine.ranks.one_shot import OneShotAllReduce, OneShotAllReduceNorm
from engine.ranks.secret import on_loopback, prove, ranks_secret
from engine.ranks.torchrun import one_machine, torchrun
from kernels.rms_norm import rms_norm
from kernels.torch_versions import all_gather

DATA_TIMEOUT = timedelta(minutes=10)
"""Longest wait of one collective on weights or activations; long enough for another rank's kernels to compile."""
CONTROL_TIMEOUT = timedelta(days=365)
"""An idle rank waits in `broadcast_bytes` for the next command; a peer's death ends the wait at once."""
START_TIMEOUT = timedelta(minutes=5)
"""Longest wait for all ranks to come to the store: a cold import of torch on a busy disk takes a minute."""
CONNECT_TIMEOUT = timedelta(minutes=1)
"""Longest wait for a connection, once all have come."""
CLOSE_TIMEOUT_S = 2.0
"""How long a rank that leaves waits for the others to do the same."""
_MESSAGE_BYTES = 4096
"""What of an error travels to the other ranks."""

T = TypeVar("T")


class Companions(Protocol):
    """The processes that this rank started, if any."""

    def any_dead(self) -> bool: ...

    def interruptible(self, work: Callable[[], T]) -> T: ...

    def unwatch(self) -> None: ...

    def close(self, healthy: bool) -> None: ...


class Group:
    """The ranks that share one model. With one rank every method is the identity and nothing is initialised.

    Tensors travel over NCCL on CUDA and Gloo on the CPU; bytes always over a Gloo group of their own. With
    `use_one_shot`, short sums on CUDA go through symmetric memory instead. Collectives raise EngineDead where another
    rank has gone.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, store: dist.Store | None = None, secret: bytes = b""
    ) -> None:
        """Joins the other ranks at `store`, blocking until all `size` have come and have proved that they know
        `secret`; raises EngineDead where one does not. `store` is None only for size 1."""
        self.rank, self.size, self.device = rank, size, device
        self.companions: Companions | None = None
        self._store = store
        self._control: dist.ProcessGroup | None = None
        self._one_shot: OneShotAllReduce | None = None
        self._one_shot_norm: OneShotAllReduceNorm | None = None
        if size == 1:
            return
        refuse_second_group()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        assert store is not None, "several ranks meet in a store"
        try:
            self._meet(store)
            # Gloo waits as long for a stranger who took a rank's place as it does for a rank that computes.
            backend, timeout = ("nccl", DATA_TIMEOUT) if device.type == "cuda" else ("gloo", CONNECT_TIMEOUT)
            device_id = device if device.type == "cuda" else None
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=device_id
            )
            self._control = dist.new_group(backend="gloo", timeout=CONNECT_TIMEOUT)
        except RuntimeError as error:
            raise self._dead(error) from error
        assert dist.group.WORLD is not None and self._control is not None
        prove(secret, dist.group.WORLD, device)
        prove(secret, self._control, torch.device("cpu"))
        _set_pg_timeout(DATA_TIMEOUT, dist.group.WORLD)
        _set_pg_timeout(CONTROL_TIMEOUT, self._control)

    @classmethod
    def single(cls, device: torch.device) -> "Group":
        """The group of one."""
        return cls(0, 1, device)

    def use_one_shot(self, dtype: torch.dtype) -> None:
        """Collective: from now on short sums of `dtype` are one kernel over NVLink. Raises InputError, on every rank,
        where that cannot be."""
        error = None
        try:
            if self.size == 1 or self.device.type != "cuda":
                raise InputError("one_shot_all_reduce needs several CUDA devices (tensor_parallel_size); leave it off")
            self._one_shot = OneShotAllReduce(dtype, self.device)
            self._one_shot_norm = OneShotAllReduceNorm.make(dtype, self.device)
        except InputError as caught:
            error = caught
        self.agree(error)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks; any shape, on `device`. What is returned may be `tensor` itself, overwritten."""
        if self._one_shot is not None and self._one_shot.takes(tensor):
            return self._one_shot(tensor)
        if self.size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise self._dead(error) from error
        return tensor

    def all_reduce_norm(
        self, part: Tensor, weight: Tensor, eps: float, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The sum of all ranks' `part` [N, H], plus `residual` [N, H]; normalised, and as it is: see kernels.rms_norm.
        `part` may be overwritten."""
        if (
            self._one_shot is not None
            and self._one_shot_norm is not None
            and residual is not None
            and self._one_shot.takes(part)
        ):
            return self._one_shot_norm(part, weight, eps, residual)
        return rms_norm(self.all_reduce(part), weight, eps, residual)

    def all_gather_last_dim(self, tensor: Tensor) -> Tensor:
        """[..., n] of every rank, in rank order, to [..., size * n]."""
        if self.size == 1:
            return tensor
        gathered = torch.empty(self.size * tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        try:
            all_gather(gathered, tensor.flatten())
        except RuntimeError as error:
            raise self._dead(error) from error
        return gathered.view(self.size, *tensor.shape).movedim(0, -2).flatten(-2)

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Rank 0's `data` on every rank; the others pass None. Two small messages: the length, then the bytes."""
        if self.size == 1:
            if data is None:
                raise ValueError("rank 0 broadcasts bytes, not None")
            return data
        try:
            length = torch.tensor([len(data) if data is not None else 0])
            dist.broadcast(length, 0, group=self._control)
            if data is None:
                buffer = torch.empty(int(length), dtype=torch.uint8)
            else:
                buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
            if int(length):
                dist.broadcast(buffer, 0, group=self._control)
        except RuntimeError as error:
            raise self._dead(error) from error
        return buffer.numpy().tobytes()

    def agree(self, error: InputError | None) -> None:
        """Called by every rank after work that may fail on some: raises the lowest rank's error on all of them."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        said = b"" if error is None else b"!" + str(error).encode("utf-8", "replace")[: _MESSAGE_BYTES - 1]
        mine = torch.frombuffer(bytearray(said.ljust(_MESSAGE_BYTES, b"\0")), dtype=torch.uint8)
        messages = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(messages, mine, group=self._control)
        except RuntimeError as dead:
            raise self._dead(dead) from dead
        for message in (row.numpy().tobytes().rstrip(b"\0") for row in messages):
            if message:
                raise InputError(message[1:].decode("utf-8", "replace")) from error

    def barrier(self) -> None:
        """Returns once every rank has called it."""
        if self.size > 1:
            try:
                dist.barrier(group=self._control)
            except RuntimeError as error:
                raise self._dead(error) from error

    def close(self) -> None:
        """Leaves the group: waits a few seconds for the others to do the same, then ends the ranks this one started.

        Safe after a failure (it meets the others in the store, not in a collective) and when called again.
        """
        if self._store is None or self._control is None:
            return
        if self.companions is not None:
            self.companions.unwatch()
        healthy = self._all_leave(self._store)
        # NCCL cannot be torn down while a peer is missing; the process that meets this is about to end.
        if healthy or self.device.type == "cpu":
            dist.destroy_process_group()
        self._control = None
        if self.companions is not None:
            self.companions.close(healthy)

    def interruptible(self, work: Callable[[], T]) -> T:
        """What `work`, which calls collectives, returns. Where this rank started the others, Ctrl-C ends it."""
        return work() if self.companions is None else self.companions.interruptible(work)

    def abandon(self) -> None:
        """Kills the ranks that this one started, if any: whatever waits for one of them then raises EngineDead."""
        if self.companions is not None:
            self.companions.close(healthy=False)

    def _meet(self, store: dist.Store) -> None:
        keys = [f"here/{rank}" for rank in range(self.size)]
        store.set(keys[self.rank], "1")
        store.wait(keys, START_TIMEOUT)

    def _all_leave(self, store: dist.Store) -> bool:
        keys = [f"leaving/{rank}" for rank in range(self.size)]
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with suppress(RuntimeError):  # whoever held the store is gone
            while self.companions is None or not self.companions.any_dead():  # the store goes with them
                store.set(keys[self.rank], "1")
                if store.check(keys):
                    return True
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        return False

    def _dead(self, error: RuntimeError) -> EngineDead:
        return EngineDead(
            f"rank {self.rank} of {self.size} cannot reach the others ({first_line(error)}); one of them has "
            "ended (its own message says why), or something else has taken its place: start the run again"
        )


def refuse_second_group() -> None:
    """Raises InputError where this process already has a group of ranks: torch.distributed knows one per process."""
    if dist.is_initialized():
        raise InputError(
            "this process already belongs to a group of ranks (an open engine with tensor_parallel_size above 1, or "
            "torch.distributed itself); close that first, or run this engine in a process of its own"
        )


def from_env(device_type: str) -> Group:
    """The group that `torchrun` describes by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    `device_type` is `cpu` or `cuda` (the local rank's device). The store is torchrun's, without a password; the secret
    is that of `ranks_secret`. Raises InputError where a variable is missing or no number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise InputError(f"environment variable {missing[0]} is not set; start the ranks with torchrun")
    rank, size, local = torchrun()
    device = local_device(device_type, local)
    if size == 1:
        return Group.single(device)
    refuse_second_group()
    secret = ranks_secret(one_machine())
    # torchrun's agent holds the store itself (TORCHELASTIC_USE_AGENT_STORE); env:// knows when.
    store, rank, size = next(iter(dist.rendezvous("env://", rank, size, timeout=DATA_TIMEOUT)))
    with on_loopback() if one_machine() else nullcontext():
        return Group(rank, size, device, dist.PrefixStore("s1-engine", store), secret)


def local_device(device_type: str, local_rank: int) -> torch.device:
    """The device of this machine's `local_rank`-th process."""
    if device_type != "cuda":
        return torch.device(device_type)
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"rank {local_rank} has no CUDA device, this machine has {torch.cuda.device_count()}; "
            "lower tensor_parallel_size or use device cpu"
        )
    return torch.device("cuda", local_rank)

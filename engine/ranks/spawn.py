"""Starting the other ranks of a group on this machine, and noticing when one dies."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
import torch.distributed as dist

from engine.errors import EngineDead, InputError
from engine.ranks.group import START_TIMEOUT, Group, local_device, refuse_second_group

_GRACE_S = 5.0
"""How long a rank may take to end by itself before it is killed."""


def exit_on_death(message: str) -> None:
    """Ends this process at once with code 1. Nothing gentler works: a collective on a GPU cannot be interrupted."""
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def spawn_ranks(
    size: int,
    target: Callable[..., None],
    args: Sequence[Any] = (),
    device_type: str = "cpu",
    on_death: Callable[[str], None] = exit_on_death,
) -> Group:
    """Makes this process rank 0 of `size` and starts the others, each of which runs `target(group, *args)`.

    `target` and `args` are pickled (processes are spawned, not forked: CUDA does not survive a fork), so a script
    needs the usual `if __name__ == "__main__"`. The ranks meet on a port that the system chooses. On the CPU each of
    them, this one included, takes its share of torch's threads, until the group is closed.

    A rank that ends before `Group.close()` is noticed within a second: the remaining ones are killed and
    `on_death(message)` runs, on a thread of its own. The others end by themselves when this process is gone.
    """
    device = local_device(device_type, 0)
    if size == 1:
        return Group.single(device)
    local_device(device_type, size - 1)  # refuse before anything is started
    refuse_second_group()
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, threads // size))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=START_TIMEOUT)
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=_run_rank,
            args=(rank, size, store.port, device_type, torch.get_num_threads(), target, tuple(args)),
            name=f"rank {rank}",
            daemon=True,
        )
        for rank in range(1, size)
    ]
    for process in processes:
        process.start()
    ranks = SpawnedRanks(processes, on_death, threads)
    group = Group(0, size, device, store)
    group.companions = ranks
    return group


class SpawnedRanks:
    """The processes of ranks 1 and up, watched by a thread until `close`."""

    def __init__(self, processes: Sequence[SpawnProcess], on_death: Callable[[str], None], threads: int) -> None:
        """`threads`: torch's in this process before it shared them."""
        self._processes, self._on_death, self._threads = processes, on_death, threads
        self._closing, self._wake = os.pipe()
        self._watcher = threading.Thread(target=self._watch, name="rank watcher", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        ready = wait([self._closing, *(process.sentinel for process in self._processes)])
        if self._closing in ready:
            return
        dead = next(process for process in self._processes if process.sentinel in ready)
        dead.join()
        code = dead.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._kill()
        self._on_death(f"{dead.name} (process {dead.pid}) {how}; all ranks end here, start the run again")

    def any_dead(self) -> bool:
        """Whether one of them has ended."""
        return any(not process.is_alive() for process in self._processes)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()  # nothing happens to one that has ended

    def close(self, healthy: bool) -> None:
        """Stops watching; ranks that have left the group get a moment to end, the others are killed."""
        os.write(self._wake, b"x")
        self._watcher.join()
        for process in self._processes:
            process.join(_GRACE_S if healthy else 0)
        self._kill()
        for process in self._processes:
            process.join()
        os.close(self._closing)
        os.close(self._wake)
        torch.set_num_threads(self._threads)


def _run_rank(
    rank: int, size: int, port: int, device_type: str, threads: int, target: Callable[..., None], args: tuple[Any, ...]
) -> None:
    # Ctrl-C reaches the whole process group; rank 0 decides what it means and the others follow its commands.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, args=(rank,), name="parent watcher", daemon=True).start()
    torch.set_num_threads(threads)
    try:
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=START_TIMEOUT)
        group = Group(rank, size, local_device(device_type, rank), store)
        with contextlib.suppress(InputError):  # rank 0 raises the same, tells the user, and closes the group too
            target(group, *args)
        group.close()
    except EngineDead as error:
        print(error, file=sys.stderr, flush=True)
        # The other rank's sockets are gone: tearing the group down could only wait for them.
        os._exit(1)


def _follow_parent(rank: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        exit_on_death(f"rank {rank} (process {os.getpid()}) ends: rank 0 (process {parent.pid}) is gone")

"""Starting the other ranks of a group on this machine, and noticing when one dies or falls silent."""

import atexit
import contextlib
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from engine.errors import EngineDead, InputError
from engine.ranks.group import START_TIMEOUT, Group, local_device, refuse_second_group
from engine.ranks.secret import on_loopback

_GRACE_S = 5.0
"""How long a rank may take to end by itself before it is killed."""
_BEAT_S = 1.0
"""Every so often a rank tells the first one that it runs."""
SILENT_S = 8.0
"""A rank that has not told so for this long is named on standard error."""

T = TypeVar("T")


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

    `target` and `args` reach them through a pipe, pickled by multiprocessing (processes are spawned, not forked: CUDA
    does not survive a fork), so a script needs the usual `if __name__ == "__main__"`. The ranks meet in a folder that
    only this user can enter, and listen on the loopback interface only. On the CPU each of them, this one included,
    takes its share of torch's threads, until the group is closed.

    A rank that ends before `Group.close()` is noticed within a second: the remaining ones are killed and
    `on_death(message)` runs, on a thread of its own. One that is silent is named on standard error. The others end by
    themselves when this process is gone.
    """
    device = local_device(device_type, 0)
    if size == 1:
        return Group.single(device)
    local_device(device_type, size - 1)  # refuse before anything is started
    refuse_second_group()
    ranks = None
    try:
        with _signals_wait():
            ranks = SpawnedRanks(size, target, args, device_type, on_death)
    except BaseException:
        if ranks is not None:
            ranks.close(healthy=False)
        raise
    group = ranks.interruptible(ranks.join)
    group.companions = ranks
    return group


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM come when it ends: nothing that is started inside it is half started. Processes that are
    started inside it begin with Ctrl-C held back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: came.append(number)) for number in numbers]
    resource_tracker.ensure_running()  # which would end the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for arrived in came[:1]:
            signal.raise_signal(arrived)


class SpawnedRanks:
    """The processes of ranks 1 and up, watched by a thread until `close`."""

    def __init__(
        self,
        size: int,
        target: Callable[..., None],
        args: Sequence[Any],
        device_type: str,
        on_death: Callable[[str], None],
    ) -> None:
        self._size, self._device, self._on_death = size, local_device(device_type, 0), on_death
        self._threads = torch.get_num_threads()
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, self._threads // size))
        self._folder, self._secret = tempfile.mkdtemp(prefix="s1-ranks-"), secrets.token_bytes(32)
        context, self._beats = multiprocessing.get_context("spawn"), list[Connection]()
        self._processes = []
        for rank in range(1, size):
            beats, beat = context.Pipe(duplex=False)
            meeting = (self._folder, self._secret, beat)
            process = context.Process(
                target=_run_rank,
                args=(rank, size, meeting, device_type, torch.get_num_threads(), target, tuple(args)),
                name=f"rank {rank}",
                daemon=True,
            )
            process.start()
            beat.close()
            self._beats.append(beats)
            self._processes.append(process)
        self._met = False
        """Whether all have come; until then `join` has a limit of its own."""
        self._closing, self._wake = os.pipe()
        self._watcher = threading.Thread(target=self._watch, name="rank watcher", daemon=True)
        self._watcher.start()
        atexit.register(self.close, False)  # where nobody closes the group

    def join(self) -> Group:
        """This process as rank 0, once all have come."""
        group = _join(0, self._size, self._folder, self._secret, self._device)
        self._met = True
        return group

    def interruptible(self, work: Callable[[], T]) -> T:
        """What `work` returns. It runs on a thread of its own, so that Ctrl-C is answered while it waits for a rank;
        the ranks are then killed, as on any error."""
        done: Future[T] = Future()

        def run() -> None:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # the current device is each thread's own
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, name="start", daemon=True).start()
        try:
            return done.result()
        except BaseException as error:
            if not isinstance(error, InputError):  # which every rank raises: the group can still be closed
                self.close(healthy=False)
            raise

    def _watch(self) -> None:
        silent, told, passed = [0.0] * len(self._beats), [False] * len(self._beats), time.monotonic()
        beats = dict(zip(self._beats, range(len(self._beats)), strict=True))
        while True:
            ready = wait([self._closing, *(process.sentinel for process in self._processes), *beats], _BEAT_S)
            if self._closing in ready:
                return
            if dead := next((process for process in self._processes if process.sentinel in ready), None):
                break
            # This process may have been stopped itself: a pass counts for little more than it can last.
            now, before = time.monotonic(), passed
            passed = now
            for connection, i in list(beats.items()):
                silent[i] += min(now - before, 2 * _BEAT_S) if self._met else 0.0
                if connection in ready:
                    silent[i] = 0.0
                    try:
                        connection.recv_bytes()
                    except EOFError:  # it ends; its sentinel follows
                        del beats[connection]
                if (silent[i] > SILENT_S) != told[i]:
                    told[i] = not told[i]
                    print(self._report(i, told[i]), file=sys.stderr, flush=True)
        dead.join()
        code = dead.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._kill()
        self._on_death(f"{dead.name} (process {dead.pid}) {how}; all ranks end here, start the run again")

    def _report(self, i: int, silent: bool) -> str:
        rank = f"{self._processes[i].name} (process {self._processes[i].pid})"
        if not silent:
            return f"{rank} answers again"
        return (
            f"{rank} has been silent for {SILENT_S:.0f} s: stopped, or starved; the others wait (Ctrl-C ends the run)"
        )

    def any_dead(self) -> bool:
        """Whether one of them has ended, or all were ended here."""
        return not self._processes or any(not process.is_alive() for process in self._processes)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()  # nothing happens to one that has ended

    def unwatch(self) -> None:
        """From now on a rank may end, or be silent."""
        if not self._processes:
            return
        os.write(self._wake, b"x")
        self._watcher.join()

    def close(self, healthy: bool) -> None:
        """Stops watching; ranks that have left the group get a moment to end, the others are killed. Calling it again
        does nothing."""
        if not self._processes:
            return
        atexit.unregister(self.close)
        self.unwatch()
        deadline = time.monotonic() + (_GRACE_S if healthy else 0)
        for process in self._processes:
            process.join(max(0, deadline - time.monotonic()))
        self._kill()
        for process in self._processes:
            process.join()
        self._processes = []
        for end in self._beats:
            end.close()
        os.close(self._closing)
        os.close(self._wake)
        shutil.rmtree(self._folder, ignore_errors=True)
        torch.set_num_threads(self._threads)


def _join(rank: int, size: int, folder: str, secret: bytes, device: torch.device) -> Group:
    store = dist.FileStore(os.path.join(folder, "store"), size)
    store.set_timeout(START_TIMEOUT)
    with on_loopback():
        return Group(rank, size, device, store, secret)


def _run_rank(
    rank: int,
    size: int,
    meeting: tuple[str, bytes, Connection],
    device_type: str,
    threads: int,
    target: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    # Ctrl-C reaches the whole process group; rank 0 decides what it means and the others follow its commands.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    folder, secret, beat = meeting
    threading.Thread(target=_follow_parent, args=(rank, folder, beat), name="parent watcher", daemon=True).start()
    torch.set_num_threads(threads)
    try:
        group = _join(rank, size, folder, secret, local_device(device_type, rank))
        with contextlib.suppress(InputError):  # rank 0 raises the same, tells the user, and closes the group too
            target(group, *args)
        group.close()
    except EngineDead as error:
        print(error, file=sys.stderr, flush=True)
        # The other rank's sockets are gone: tearing the group down could only wait for them.
        os._exit(1)


def _follow_parent(rank: int, folder: str, beat: Connection) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        while not wait([parent.sentinel], _BEAT_S):
            with contextlib.suppress(OSError):  # rank 0 closes, or is gone
                beat.send_bytes(b".")
        shutil.rmtree(folder, ignore_errors=True)
        exit_on_death(f"rank {rank} (process {os.getpid()}) ends: rank 0 (process {parent.pid}) is gone")

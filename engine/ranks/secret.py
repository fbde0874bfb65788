"""The secret that ranks share, and how each proves to every other that it knows it.

Gloo and NCCL take whoever connects first for the rank they wait for. So over each connection, before anything else is
read from it, both sides answer the other's challenge: HMAC-SHA256 of the challenges and of who answers whom, under the
secret, which is never sent itself. Over NCCL this has not been run yet: no GPU was at hand.
"""

import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from engine.errors import EngineDead, InputError, first_line

VARIABLE = "S1_RANKS_SECRET"
"""Holds the secret where ranks are started by others (torchrun); needed where they run on several machines."""
PROOF_TIMEOUT = timedelta(minutes=1)
"""Longest wait for a proof: all ranks are there, and have nothing else to do."""
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Environment in which neither Gloo nor NCCL listens on another interface."""
_LEAST_CHARACTERS = 16
_CHALLENGE_BYTES = 32


def ranks_secret(one_machine: bool) -> bytes:
    """What `S1_RANKS_SECRET` says; where it is not set and all ranks run on this machine, a secret of this user's,
    made once and kept in a file that nobody else can read. Raises InputError where there is none."""
    given = os.environ.get(VARIABLE, "")
    if 0 < len(given) < _LEAST_CHARACTERS:
        raise InputError(f"{VARIABLE} has {len(given)} characters; give at least {_LEAST_CHARACTERS}, all at random")
    if given:
        return given.encode("utf-8", "surrogateescape")
    if not one_machine:
        raise InputError(
            f"ranks on several machines must share a secret: set {VARIABLE} to the same random text on each of them "
            "(openssl rand -hex 32)"
        )
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return _kept(Path(cache).expanduser() / "s1-engine")
    except (OSError, RuntimeError) as error:  # also a user without a home
        raise InputError(f"the ranks' secret cannot be kept in {cache}/s1-engine ({error}); set {VARIABLE}") from error


def _kept(folder: Path) -> bytes:
    path = folder / "ranks.secret"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as new:  # mode 0600
            new.write(secrets.token_bytes(32))
            new.flush()
            with suppress(FileExistsError):  # another rank was first
                os.link(new.name, path)
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077 or about.st_size != 32:
            raise OSError(f"{path.name} is not this user's alone, or not whole; remove it")
        return file.read()


@contextmanager
def on_loopback() -> Iterator[None]:
    """What torch.distributed opens inside it listens on the loopback interface only."""
    before = {name: os.environ.get(name) for name in LOOPBACK}
    os.environ.update(LOOPBACK)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def prove(secret: bytes, group: dist.ProcessGroup, device: torch.device) -> None:
    """Collective, right after `group` was made: raises EngineDead unless every other rank knows `secret`. Messages go
    straight from each rank to each other one, over the connections that later ones use (those of `device`)."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    mine = [secrets.token_bytes(_CHALLENGE_BYTES) for _ in range(size)]
    try:
        theirs = _exchange(mine, group, device)
        answers = _exchange([_answer(secret, rank, to, theirs[to], mine[to]) for to in range(size)], group, device)
    except RuntimeError as error:
        raise EngineDead(
            f"rank {rank} of {size} cannot reach the others ({first_line(error)}); one of them has ended, or something "
            "else has taken its place: start the run again"
        ) from error
    for other in range(size):
        if not hmac.compare_digest(answers[other], _answer(secret, other, rank, mine[other], theirs[other])):
            raise EngineDead(
                f"rank {rank} of {size}: what answers as rank {other} does not know the ranks' secret; if it is one of "
                f"yours, set {VARIABLE} to the same text for all"
            )


def _answer(secret: bytes, by: int, to: int, asked: bytes, asks: bytes) -> bytes:
    return hmac.digest(secret, b"s1-engine rank %d to %d:" % (by, to) + asked + asks, "sha256")


def _exchange(messages: list[bytes], group: dist.ProcessGroup, device: torch.device) -> list[bytes]:
    """messages[r], all of one length, to rank r; what each rank sent to this one."""
    sent = torch.frombuffer(bytearray(b"".join(messages)), dtype=torch.uint8).to(device)
    received = torch.empty_like(sent)
    work = dist.all_to_all_single(received, sent, group=group, async_op=True)
    work.wait(PROOF_TIMEOUT)
    return [row.numpy().tobytes() for row in received.cpu().view(len(messages), -1)]

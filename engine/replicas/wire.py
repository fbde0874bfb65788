"""What goes over the socket between an engine's process and the one that asks: frames of one kind each.

A frame is its length (four bytes, little end first), its kind (one byte) and its body. The pair of sockets has no name
and no port: nobody else can connect.
"""

import select
import socket
import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

from engine.errors import EngineDead

_HEAD = struct.Struct("<IB")
HEAD_BYTES = _HEAD.size
_MOST = 1 << 30


class Kind(IntEnum):
    """Of a frame."""

    COMMANDS = 0
    """To the engine: `engine.messages.encode_commands`."""
    READY = 1
    """From it, the first: a `Ready`."""
    REFUSED = 2
    """From it, the only one: why the model cannot be used."""
    EVENTS = 3
    """From it, one for each step: `engine.messages.encode_events`."""
    STATS = 4
    """From it: counters by name."""


class Ready(msgspec.Struct, frozen=True):
    """An engine that takes requests."""

    context: int
    scores: bool
    """It is a reward model: it gives scores and draws nothing."""
    lines: list[str]
    """What it says of itself at its start."""
    stats: dict[str, int]


class Frame(NamedTuple):
    """What was said."""

    kind: Kind
    body: bytes


def frame(kind: Kind, body: bytes) -> bytes:
    """As it goes over the wire."""
    return _HEAD.pack(len(body), kind) + body


def head(data: bytes) -> tuple[int, Kind]:
    """(bytes of the body, kind) of the next frame. Raises EngineDead where it is no head of one."""
    size, kind = _HEAD.unpack(data)
    if size > _MOST or kind not in list(Kind):
        raise EngineDead(f"a frame of kind {kind} with {size:,} bytes came over the wire")
    return size, Kind(kind)


class Channel:
    """The engine's end, for one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._data = bytearray()

    def send(self, kind: Kind, body: bytes) -> None:
        """Waits while the other side is behind. Raises OSError where it has gone."""
        self._socket.sendall(frame(kind, body))

    def receive(self, wait: bool) -> list[Frame] | None:
        """Frames that have come; with `wait`, at least one. None: the other side has gone."""
        while wait or select.select([self._socket], [], [], 0)[0]:
            data = self._socket.recv(1 << 20)
            if not data:
                return None
            self._data += data
            if frames := self._whole():
                return frames
        return []

    def _whole(self) -> list[Frame]:
        frames = []
        while len(self._data) >= HEAD_BYTES:
            size, kind = head(bytes(self._data[:HEAD_BYTES]))
            if len(self._data) < HEAD_BYTES + size:
                break
            frames.append(Frame(kind, bytes(self._data[HEAD_BYTES : HEAD_BYTES + size])))
            del self._data[: HEAD_BYTES + size]
        return frames

"""The process of one engine: commands in over a socket, a step, what it did out in one frame.

    python -m engine.replicas.worker FD

It ends when the other side of the socket `FD` does. What a terminal or a supervisor tells every process of a group
(SIGINT, SIGTERM) is for whoever started it, who lets what runs come to its end.
"""

import signal
import socket
import sys
import time

import msgspec

from engine.config import EngineConfig
from engine.errors import EngineDead, InputError, tell
from engine.host import Host
from engine.messages import Command, decode_commands, encode_events
from engine.model.checkpoint import resolve
from engine.replicas.wire import Channel, Frame, Kind, Ready
from engine.text.tokenizer import Tokenizer
from engine.timeline import Timeline

_STATS_S = 0.25
"""Seconds between two reports of the counters while there is work."""
_CHECK_S = 1.0
"""Seconds between two checks of the pages, which are made when nothing runs."""


def main() -> int:
    """Serve until there is nobody to serve; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    given = channel.receive(wait=True)
    if not given:
        return 0
    config = msgspec.msgpack.decode(given[0].body, type=EngineConfig)
    try:
        directory = resolve(config.model)
        host = Host(config, directory, Tokenizer.load(directory), Timeline())
    except InputError as error:
        channel.send(Kind.REFUSED, str(error).encode())
        return 2
    ready = Ready(host.context, host.model.score is not None, host.start_lines(), host.stats())
    try:
        channel.send(Kind.READY, msgspec.msgpack.encode(ready))
        _run(host, channel)
    except OSError:  # whoever asked has gone
        return 1
    except EngineDead as error:
        tell(error)
        return 1
    finally:
        host.group.close()
    return 0


def _run(host: Host, channel: Channel) -> None:
    host.use_device()
    told = checked = 0.0
    while True:
        frames = channel.receive(wait=not host.core.has_work)
        commands, closing = _commands(frames)
        events = host.turn(commands, closing)
        if events:
            channel.send(Kind.EVENTS, encode_events(events))
        if closing:
            return
        rests, now = not host.core.has_work, time.monotonic()
        if rests or now - told > _STATS_S:
            told = now
            if rests and now - checked > _CHECK_S:
                checked = now
                host.core.check()  # every page and slot is accounted for, or this is an engine to be replaced
            channel.send(Kind.STATS, msgspec.msgpack.encode(host.stats()))


def _commands(frames: list[Frame] | None) -> tuple[list[Command], bool]:
    """What the frames hold, and whether the engine is to end."""
    if frames is None:
        return [], True
    commands: list[Command] = []
    closing = False
    for one in frames:
        more, ends = decode_commands(one.body)
        commands += more
        closing |= ends
    return commands, closing


if __name__ == "__main__":
    sys.exit(main())

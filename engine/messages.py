"""What rank 0 sends the others before each step: the commands that all of them apply, as MessagePack of fixed types.

Bytes from another rank are data, never a program: they decode to commands or are refused.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.core import Command
from engine.errors import EngineDead


def encode_commands(commands: Sequence[Command], closing: bool) -> bytes:
    """The commands in order, and whether the loop ends behind them."""
    return _ENCODER.encode((commands, closing))


def decode_commands(data: bytes) -> tuple[list[Command], bool]:
    """What `encode_commands` was given. Raises EngineDead for anything else."""
    try:
        commands, closing = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineDead(f"what came from rank 0 are no commands: {error}") from error
    return commands, closing


def _plain(value: Any) -> Any:
    """What MessagePack has no type for: prompts, and the mappings and numbers of other libraries."""
    if isinstance(value, array):
        return value.tobytes()
    return float(value) if isinstance(value, float) else dict(value)


def _typed(kind: type, value: Any) -> Any:
    if kind is array:
        return array("i", value)
    raise NotImplementedError(kind)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(tuple[list[Command], bool], dec_hook=_typed)

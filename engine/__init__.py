"""The inference engine: paged, continuously batched, tensor-parallel decoding with budget forcing in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.config import EngineConfig
from engine.errors import EngineDead, InputError
from engine.request import Completion, Delta, RequestOutput, SamplingParams, TokenKind

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.handle import Handle

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Delta",
    "Engine",
    "EngineConfig",
    "EngineDead",
    "Handle",
    "InputError",
    "RequestOutput",
    "SamplingParams",
    "TokenKind",
    "__version__",
]

_LATE = {"Engine": "engine.engine", "Handle": "engine.handle"}
"""What brings torch with it, two seconds of imports, and is imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)

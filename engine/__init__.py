"""The inference engine: paged, continuously batched, tensor-parallel Qwen2 decoding with budget forcing in the loop."""

from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import EngineDead, InputError
from engine.handle import Handle
from engine.request import Completion, Delta, RequestOutput, SamplingParams, TokenKind

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

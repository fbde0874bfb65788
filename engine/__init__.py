"""The inference engine: paged, continuously batched, tensor-parallel Qwen2 decoding with budget forcing in the loop."""

from engine.config import EngineConfig
from engine.engine import Engine, Handle
from engine.errors import EngineDead, InputError
from engine.request import Completion, Delta, RequestOutput, SamplingParams, TokenKind

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
]

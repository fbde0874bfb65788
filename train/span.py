"""Spans of a run: which steps were trained with which settings."""

import json
from typing import Any

from msgspec import Struct, convert, to_builtins

from train.config import TrainConfig


class Span(Struct, frozen=True):
    """`settings`, a part of TrainConfig, that the steps behind step `begin` were trained with."""

    begin: int
    settings: dict[str, Any]

    @classmethod
    def of(cls, begin: int, config: TrainConfig) -> "Span":
        """Of what may change while a run goes on and changes what is learned."""
        formats = {"dtype": config.compute.dtype, "master_dtype": config.compute.master_dtype}
        settings = {"epochs": config.epochs, "optim": to_builtins(config.optim), "compute": formats}
        return cls(begin, json.loads(json.dumps(settings)))

    def applied(self, config: TrainConfig) -> TrainConfig:
        """`config` under these settings."""
        tree = to_builtins(config)
        for name, value in self.settings.items():
            tree[name] = tree[name] | value if isinstance(value, dict) else value
        return convert(tree, TrainConfig)

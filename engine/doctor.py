"""`python -m engine.doctor [MODEL]`: what this machine can do, what fits, and which kernels run and why.

Takes the engine's own flags and answers for exactly that configuration; loads no weights.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from engine.command.flags import read_flags
from engine.config import EngineConfig
from engine.errors import InputError, tell
from engine.model.embedded import EMBEDDED


@dataclass(frozen=True, kw_only=True)
class Arguments(EngineConfig):
    """What this machine can do with a model: memory, kernels, limits."""

    model: Annotated[str, tyro.conf.Positional] = str(EMBEDDED)
    """Checkpoint directory in the Hugging Face layout, or a hub id."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        """EngineConfig checks the fields when it is made of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0, or 2 for a configuration that the engine would refuse."""
    try:
        arguments = read_flags(Arguments, argv, "python -m engine.doctor")
        config = EngineConfig(**{f.name: getattr(arguments, f.name) for f in fields(EngineConfig)})
        from engine.examination import examine, show  # brings torch, which --help does without

        found = examine(config)
    except InputError as error:
        tell(error)
        return 2
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

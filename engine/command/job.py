"""What a command line of `engine.generate` asks for, checked as far as that takes neither torch nor a tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from engine.command.arguments import Arguments
from engine.command.jsonl import InputLine, Origin, read_input
from engine.config import EngineConfig
from engine.model.checkpoint import resolve
from engine.model.generation_config import default_params


@dataclass(frozen=True)
class Job:
    """Requests, the engine that answers them, and where the answers go."""

    arguments: Arguments
    config: EngineConfig
    directory: Path
    """The checkpoint."""
    lines: list[InputLine]

    @classmethod
    def of(cls, arguments: Arguments) -> "Job":
        """Raises InputError for flags, lines and names of models that cannot be used."""
        config = arguments.engine_config()
        directory = resolve(config.model)
        base = arguments.sampling_params(default_params(directory, config.generation_config))
        if arguments.prompt is not None:
            lines = [InputLine(0, "0", arguments.prompt, base, {"prompt": arguments.prompt}, "--prompt")]
        else:
            assert arguments.input is not None  # `parse` saw to it
            lines = read_input(arguments.input, base, arguments.carry)
        return cls(arguments, config, directory, lines)

    @property
    def origin(self) -> Origin:
        """What makes the lines of the output."""
        return Origin.of(self.arguments.model_name, self.config)

"""The command line of `python -m engine.serve`: the engine's flags, defaults of requests, and the server's own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.command.arguments import ModelFlags, read_model_flags, refuse_of_requests
from engine.errors import InputError, is_whole, refuse, shown
from engine.input_file import read_regular
from engine.model.embedded import EMBEDDED

_KEYS = "S1_API_KEYS"
_MOST_REPLICAS = 1024
_EFFORTS = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": 16384, "xhigh": -1}


@dataclass(frozen=True, kw_only=True)
class Options(ModelFlags):
    """Serve a model over HTTP. Sampling flags are the defaults of requests that do not say otherwise."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    data_parallel_size: int = 1
    """Engines behind the port, each with GPUs of its own, or a share of the processor."""
    served_model_name: tuple[str, ...] = ()
    """What requests may call the model; the first is what replies call it. By default its folder's name."""
    api_key_file: str | None = None
    """File of the keys that clients may have, one a line. Also: S1_API_KEYS, separated by commas."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages, beside the server's own, that may use it: http://host:port."""
    reasoning_effort_budgets: dict[str, int] | None = None
    """Budgets that reasoning_effort stands for, -1 for none: name budget name budget ... By default none 0 minimal 256
    low 1024 medium 4096 high 16384 xhigh -1."""
    max_waiting: int = 4096
    """Requests that may be open; the next gets 429."""
    max_samples: int = 64
    """Most samples of one request (`n`)."""
    max_prompts: int = 1024
    """Most prompts of one request."""
    max_body_bytes: int = 10 * 2**20
    """Most bytes of a body."""
    read_timeout: float = 30.0
    """Seconds that a head may take to come, and a body behind it."""
    stall_timeout: float = 60.0
    """Seconds that a client may take no more of its stream, before it counts as gone."""
    shutdown_timeout: float = 30.0
    """Seconds that running requests have when the server is told to end."""
    ui: bool = True
    """The playground at /."""
    log_json: bool = False
    """One JSON object for each request on standard error, instead of a line for people."""

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the model."""
        folder = "s1-nano" if self.model == str(EMBEDDED) else Path(self.model).name or self.model
        return (*self.served_model_name, folder, self.model) if not self.served_model_name else self.served_model_name

    @property
    def efforts(self) -> Mapping[str, int]:
        """Budgets by the name of an effort."""
        return _EFFORTS if self.reasoning_effort_budgets is None else self.reasoning_effort_budgets

    @property
    def local(self) -> bool:
        """Whether only this machine can come to the address."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def keys(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """The keys that clients may have. Raises InputError, without naming one, where they cannot be read."""
        found = [key.strip() for key in environment.get(_KEYS, "").split(",") if key.strip()]
        refuse((_KEYS in environment and not found, f"{_KEYS} is set and holds no key; unset it, or give keys"))
        if self.api_key_file is not None:
            try:
                text = read_regular(Path(self.api_key_file), 2**20).decode()
            except (OSError, ValueError) as error:
                raise InputError(f"--api-key-file {self.api_key_file}: cannot be read: {error}") from None
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            refuse((not lines, f"--api-key-file {self.api_key_file} holds no key; write one a line, or leave it out"))
            found += lines
        for number, key in enumerate(found, 1):
            if not (key.isascii() and key.isprintable() and " " not in key and 8 <= len(key) <= 512):
                raise InputError(
                    f"API key {number} has spaces, or not 8 to 512 printable ASCII characters; make another"
                )
        return tuple(found)


def _is_name(text: str) -> bool:
    return text.isprintable() and not any(char.isspace() for char in text)


def parse(argv: Sequence[str]) -> Options:
    """Raises InputError for flags that are unknown, malformed or contradictory; --help ends with exit code 0."""
    options = read_model_flags(Options, argv, "python -m engine.serve")
    refuse_of_requests(options, "a server: it is for each request to say")
    for name in ("data_parallel_size", "max_waiting", "max_prompts", "max_body_bytes"):
        refuse(
            (
                not is_whole(getattr(options, name), 1),
                f"--{name.replace('_', '-')} is {getattr(options, name)}; give 1 or more",
            )
        )
    refuse((options.data_parallel_size > _MOST_REPLICAS, f"--data-parallel-size is above {_MOST_REPLICAS}"))
    for name in ("read_timeout", "stall_timeout", "shutdown_timeout"):
        refuse(
            (
                not 0 <= getattr(options, name) < 1e9,
                f"--{name.replace('_', '-')} is {getattr(options, name)}; give seconds",
            )
        )
    refuse(
        *(
            (not _is_name(name), f"--served-model-name has {shown(name)}; give printable text without white space")
            for name in options.served_model_name
        ),
        *(
            (
                not re.fullmatch(r"https?://[\w.\[\]:-]+", origin),
                f"--allowed-origins has {shown(origin)}; give http://host:port",
            )
            for origin in options.allowed_origins
        ),
        (not 0 <= options.port < 65536, f"--port is {options.port}; give 0 to 65535"),
        *(
            (
                not -1 <= budget < 2**31,
                f"--reasoning-effort-budgets has {shown(name)} {budget}; give tokens, or -1 for no limit",
            )
            for name, budget in options.efforts.items()
        ),
    )
    return options

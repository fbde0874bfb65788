"""Where a model behind an OpenAI-compatible endpoint is; apart from its client, which takes a second to import."""

import os
import re
from typing import Annotated

import msgspec

from engine.errors import InputError, shown

Count = Annotated[int, msgspec.Meta(ge=1)]


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model is and how hard it may be asked."""

    model: str
    """The name the endpoint knows it by."""
    base_url: str
    """Such as https://host/v1."""
    name: str = ""
    """What tables call it; empty: `model`."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty: none is needed."""
    concurrency: Count = 16
    """Calls in flight at most."""
    timeout_s: float = 600.0
    """Seconds of one try."""
    max_tries: Count = 6
    """Tries of one call, the first included."""
    first_wait_s: float = 1.0
    """Wait before the second try; doubles with every further one. Up to as much again is added at random."""
    longest_wait_s: float = 60.0
    """Most that the wait doubles to, and the longest that a server may ask for."""

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.base_url):
            raise InputError(f"base_url is {shown(self.base_url)}; give http://HOST/v1 or https://HOST/v1")


def api_key(config: EndpointConfig) -> str:
    """The endpoint's key. Raises InputError where it should be in the environment and is not."""
    if config.api_key_env and config.api_key_env not in os.environ:
        raise InputError(f"api_key_env names {config.api_key_env}, which is not set; export it or leave it out")
    return os.environ.get(config.api_key_env, "") or "none"  # the package refuses an empty one

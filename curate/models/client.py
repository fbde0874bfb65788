"""Calls to an OpenAI-compatible server: bounded in time, tried again with jitter and a limit."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import openai
from openai import AsyncOpenAI
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from curate.models.asking import clean
from curate.models.endpoint_config import EndpointConfig, api_key

T = TypeVar("T")


MAX_REPLY = 16 << 20
"""Bytes of a reply, unpacked: some hundred thousand tokens with their log-probabilities."""


class TooLong(openai.OpenAIError):
    """A reply of more than `MAX_REPLY` bytes. The package lets errors of its own kind through."""


async def _read_bounded(response: Any) -> None:
    """Read the body here instead of in the package, which would take in whatever a server sends."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY:
            raise TooLong
    response._content = b"".join(parts)  # what `aread` returns


class Failed(Exception):
    """A call without a reply that can be used.

    Attributes:
        kind: a key of `asking.ERRORS`.
        wait_s: seconds that the server asks to wait.
        tries: how often it was asked.
    """

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(clean(detail[:300]))
        self.kind, self.wait_s, self.tries = kind, wait_s, 1


_FINAL = ("bad_request", "rejected")
"""Kinds that another try cannot mend."""
_KINDS = {
    401: "rejected",
    403: "rejected",
    404: "rejected",
    408: "timeout",
    409: "server",
    425: "server",
    429: "rate_limit",
}
"""Kinds of statuses that are not their class's."""


class Client(AbstractAsyncContextManager["Client", None]):
    """Calls to one server. Use it as an async context manager."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises InputError where the key is missing."""
        self._config = config
        self._http = AsyncOpenAI(
            base_url=config.base_url,
            api_key=api_key(config),
            timeout=config.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_read_bounded]}),
        )

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> tuple[T, int]:
        """(what `read` makes of the reply's JSON, tries). `path` is below the base URL, or a whole URL.

        Raises Failed with what became of the last try; a reply that `read` trips over is of kind `garbage`.
        """
        first, longest = self._config.first_wait_s, self._config.longest_wait_s
        jitter = wait_exponential(multiplier=first, max=longest) + wait_random(0, first)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            return max(jitter(state), min(getattr(error, "wait_s", 0.0), longest))

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self._config.max_tries),
            wait=wait,
            reraise=True,
            retry=retry_if_exception(lambda error: isinstance(error, Failed) and error.kind not in _FINAL),
        ):
            with attempt:
                tries = attempt.retry_state.attempt_number
                try:
                    return await self._try(path, body, read), tries
                except Failed as error:
                    error.tries = tries
                    raise
        raise AssertionError("tenacity neither returned nor raised")

    async def _try(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(self._config.timeout_s):  # the package's own is per read, not for all
                reply = await self._http.post(path, body=body, cast_to=bytes)
            return read(json.loads(reply))
        except (openai.APITimeoutError, TimeoutError):
            raise Failed("timeout", f"no response within {self._config.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            status = error.status_code
            kind = _KINDS.get(status, "server" if status >= 500 else "bad_request")
            after = error.response.headers.get("retry-after", "")
            wait_s = float(after) if after.isascii() and after.replace(".", "", 1).isdigit() else 0.0
            raise Failed(kind, f"status {status}: {error.message}", wait_s) from None
        except TooLong:
            raise Failed("garbage", f"the reply is longer than {MAX_REPLY >> 20} MiB") from None
        except openai.APIConnectionError as error:
            raise Failed("connection", f"{error}: {error.__cause__}") from None
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise Failed("garbage", f"not the reply that it should be: {error}") from None

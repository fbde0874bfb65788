"""What goes wrong, as status codes and in the shapes that OpenAI's and Anthropic's clients read."""

import re
from typing import Any

from engine.errors import EngineDead, InputError, plain
from engine.replicas.replicas import Full

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
RETRY_S = 1
_FIELDS = (
    "n",
    "stop",
    "model",
    "seed",
    "prompt",
    "logprobs",
    "messages",
    "pause",
    "labels",
    "mark",
    "steps",
    "tools",
    "suffix",
    "logprobs",
    "temperature",
)
"""Names of fields that are words of the language too."""


class HttpError(Exception):
    """Ends a request with a status."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        """`retry`: seconds after which the client may come again."""
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, plain(message), param, code, retry

    @classmethod
    def of(cls, error: BaseException) -> "HttpError":
        """Whatever was raised; what nobody foresaw is 500, and says nothing of the inside."""
        if isinstance(error, cls):
            return error
        if isinstance(error, Full):
            return cls(429, str(error), code="queue_full", retry=RETRY_S)
        if isinstance(error, InputError):
            return cls(400, str(error), param=_field(str(error)))
        if isinstance(error, EngineDead):
            return cls(503, f"{error}; send the request again", code="engine_ended", retry=RETRY_S)
        return cls(500, "something failed in the server; its log has more under this request's id", code="internal")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """That go with it."""
        found = [] if self.retry is None else [(b"retry-after", str(self.retry).encode())]
        return found + ([(b"www-authenticate", b"Bearer")] if self.status == 401 else [])

    def body(self, request_id: str, anthropic: bool) -> dict[str, Any]:
        """The JSON object."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        if anthropic:
            error = {"type": kind, "message": self.message}
            return {"type": "error", "error": error, "request_id": request_id}
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _field(message: str) -> str | None:
    """The field that a message of ours begins with."""
    found = re.match(r"([a-z][a-z_]*)((\['?-?\d+'?\])*(\.[a-z_]+(\[\d+\])?)*)(?=[ :])", message)
    if found is None or not (found[2] or "_" in found[1] or found[1] in _FIELDS):
        return None
    return found[0]

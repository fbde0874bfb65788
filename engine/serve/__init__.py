"""The HTTP server: OpenAI's and Anthropic's endpoints, live control, a playground; engines are other processes."""

from importlib.util import find_spec

_MISSING = [name for name in ("prometheus_client", "starlette", "uvicorn") if find_spec(name) is None]
if _MISSING:
    raise ImportError(f"the server needs {' and '.join(_MISSING)}: pip install 's1-engine[server]'")

"""The errors a caller can meet. Each message is one line: the thing, its value, the way out."""


class InputError(ValueError):
    """A request, a configuration or a checkpoint that cannot be used as given."""


class EngineDead(RuntimeError):
    """The engine loop has ended (a rank died, the device failed, or `close` was called) and cannot take the request."""

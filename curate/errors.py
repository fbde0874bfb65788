"""The one error of curation that a caller can meet."""


class CurationError(ValueError):
    """A configuration, a source file or a table that cannot be used; one line: the thing, its value, the way out."""

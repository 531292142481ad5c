"""Errors by meaning: whoever catches one knows what to do next, without reading the message.

Owns the exception types of the method. Client errors (HTTP, Qdrant, torch) are translated into these at the edge.
"""


class SemiEvolError(Exception):
    """Base of every error raised on purpose; its text names the cause and the fix."""


class ConfigError(SemiEvolError):
    """A setting is missing, unknown or out of range; the text names the key and the fix."""


class DataError(SemiEvolError):
    """A record or file is unusable; the text names the file, line and field."""


class TooLongError(DataError):
    """A prompt leaves no room for its answer; the text names the limit in the model's tokens, where it is known."""


class AdapterError(SemiEvolError):
    """An adapter directory is missing, unfinished, corrupt or not loadable."""


class TransientError(SemiEvolError):
    """A component did not answer; the same call may succeed later."""


class LateError(TransientError):
    """A server that is alive did not answer one request within its time; others may well be answered."""


class BusyError(TransientError):
    """Too many requests wait already; the text says whose. Nothing was begun."""

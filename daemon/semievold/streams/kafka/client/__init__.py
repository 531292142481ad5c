"""kafka-python, and all that is known of it: the one folder that imports it (decision 8).

Owns the connection (security, time limits), what each error means, the calls that kafka-python does not document, and
four clients in the project's own terms: member of a group, sender, sender in transactions, administrator. Owns no
thread, no buffer and no decision about a topic.
Invariant: what is raised here is an error of ours; a client that could not be made leaves no thread behind.
"""

from semievol.errors import ConfigError

try:
    import kafka  # noqa: F401 - every module of this folder needs it
except ImportError as missing:
    raise ConfigError("stream.kind: kafka needs the package kafka-python: pip install 'semievol[kafka]'") from missing

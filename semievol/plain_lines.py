"""Text from outside where people read it: nothing in it steers a terminal, and it begins no line of its own.

Owns the one way in which control characters are shown: by their escapes, those of JSON, so that JSON stays JSON; and
what becomes of half a character. Used by whatever prints, logs, or keeps a text. Invariant: `one_line` gives one line,
whatever it was given.
"""

from __future__ import annotations

import json
import logging
import re

# C0 without tab and line feed, DEL and C1 (NEL among them), marks and overrides of writing direction, separators of
# lines and paragraphs, annotations, invisible tags, halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)


def plain(text: object) -> str:
    """`text` with control characters, marks of writing direction and half surrogates as escapes (JSON's)."""
    return _STEERING.sub(lambda found: escaped(found.group()), str(text))


def one_line(text: object) -> str:
    """As `plain`; line feeds and tabs as escapes, too."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def is_whole(text: str) -> bool:
    """Whether it can be written as UTF-8: it has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(text: str) -> str:
    """`text` with its halves of surrogate pairs as U+FFFD; two that stand together are one character again."""
    return text if is_whole(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


class LineFormatter(logging.Formatter):
    r"""One record, one line: what a client wrote cannot look like another record, nor hide one.

    Also a traceback is on its record's line; `sed 's/\\n/\n/g'` unfolds it.
    """

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def log_plainly(form: str, date_form: str, level: int) -> None:
    """Log to standard error, each record on a line; where the process logs already, nothing changes."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form, date_form))
    logging.basicConfig(level=level, handlers=[handler])


def warn_plainly() -> None:
    """Warnings of a process that sets up no log come to standard error, each on a line."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())

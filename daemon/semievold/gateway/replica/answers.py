"""A replica's answer, read as far as it is whole: all of it, or the events of a stream that have come.

Owns what is no answer: one that is cut off, too large, late, or that begins with an error. Not what is done about it
(proxy). Invariant: no part of an event is given out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

from semievold.gateway.replica.stream_time import StreamTime
from semievold.gateway.rewriting import StreamRewriter, begins_with_error, was_aborted

ANSWER_BYTES = 128 * 1024 * 1024
"""Of an answer that is not streamed: it is held in memory, and read as JSON."""
SLOW = "too slow"


class Mistaken(Exception):  # noqa: N818 - named by meaning
    """The client's request is at fault, as the replica says where its stream would have begun."""

    def __init__(self, said: Mapping[str, str | None]) -> None:
        super().__init__(said["message"])
        self.said = said


class ReplicaFailed(Exception):  # noqa: N818 - named by meaning
    """This replica did not answer, and the client got no byte; `down`: it should get no other request either.

    of_request: what it said, where the request itself may be what it failed on.
    """

    def __init__(self, reason: str, *, down: bool, of_request: str | None = None) -> None:
        super().__init__(reason)
        self.down = down
        self.of_request = of_request


class TooLarge(Exception):  # noqa: N818 - named by meaning
    """The answer is larger than any that is held in memory."""


async def first_events(answer: aiohttp.ClientResponse, rewriter: StreamRewriter) -> bytes:
    """The first whole events of a stream.

    Raises:
        Mistaken: the stream begins with an error that is the client's.
        ReplicaFailed: it begins with another error, or is cut off or ends before it begins.
    """
    while chunk := await answer.content.readany():
        if events := rewriter.feed(chunk):
            _check_not_cut_off(events)
            if begins_with_error(events):
                said = json.loads(events.partition(b"\n")[0].removeprefix(b"data:"))["error"]
                if said["type"] == "invalid_request_error":
                    raise Mistaken(said)
                raise ReplicaFailed("its stream began with an error", down=False, of_request=said["message"])
            return events
    raise ReplicaFailed("its stream ended before it began", down=True)


async def whole_body(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer.

    Raises:
        ReplicaFailed: its engine has cut it off.
        TooLarge: it is not read to its end.
    """
    parts, size = [], 0
    while chunk := await answer.content.readany():
        size += len(chunk)
        if size > ANSWER_BYTES:
            raise TooLarge
        parts.append(chunk)
    body = b"".join(parts)
    _check_not_cut_off(body)
    return body


async def next_events(answer: aiohttp.ClientResponse, rewriter: StreamRewriter, time: StreamTime) -> bytes:
    """The next whole events of a stream, however many have come; nothing at its end.

    Raises:
        ReplicaFailed: it broke off, was cut off, or took too long.
    """
    if time.over and not answer.content.is_eof():  # what has come whole in time is passed on
        raise ReplicaFailed(SLOW, down=False)
    time.reading = True
    try:
        while chunk := await answer.content.readany():
            if events := rewriter.feed(chunk):
                _check_not_cut_off(events)
                return events
    except TimeoutError as failure:
        raise ReplicaFailed("silent within a stream", down=True) from failure
    except (aiohttp.ClientError, OSError, ValueError) as failure:
        raise ReplicaFailed(in_short(failure), down=True) from failure
    finally:
        time.reading = False
    return rewriter.end()


def _check_not_cut_off(answer: bytes) -> None:
    """A server that is told to sleep, or to stop, ends so what waits or runs there; the next one may answer."""
    if was_aborted(answer):
        raise ReplicaFailed("cut off its answer", down=False)


def in_short(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {str(failure)[:200]}"

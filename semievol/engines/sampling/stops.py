"""Stop strings: where a text that grows by tokens has to end.

Owns the search for the first stop, over the borders of tokens, and how much of a text may be shown while it grows. Owns
no tokens. Invariant: what was shown is never part of a stop, and together it is the text before the first stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids as the text of a completion."""

_HALF_CHARACTER = "\ufffd"


class GrowingText:
    """The text of tokens that come one by one, each decoded after those before it as some tokenizers need.

    Only as many of the last tokens are decoded again as the tokenizer may still change: the work per token is constant.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # where decoding begins, so that the first new token is not taken for the text's first
        self._told = 0  # tokens whose text was told

    def add(self, token_id: int) -> str:
        """The text that is certain now and was not before; a character may need several tokens."""
        self._ids.append(token_id)
        before, now = self._texts()
        if len(now) <= len(before) or now.endswith(_HALF_CHARACTER):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """What no further token will complete."""
        before, now = self._texts()
        self._context = self._told = len(self._ids)
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._ids[self._context : self._told]), self._decode(self._ids[self._context :])


class StopFinder:
    """Cuts a growing text before the first of some strings.

    Without strings everything is shown at once. Of several stops the one that begins first counts; of those, the
    longest has no say, as the text before it is the same.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """What may be shown now: nothing of it can become a part of a stop."""
        if self.stopped:
            return ""
        text = self._held + text
        begins = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if begins:
            self.stopped, self._held = True, ""
            return text[: min(begins)]
        cut = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text could be the beginning of the stop."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)

"""Single tokens as text and bytes, as OpenAI's `logprobs` name them.

A token is often no text: a part of a character, or a word whose space in front belongs to it. Invariant: the bytes of a
completion's tokens, one after the other, are the bytes of its text (but for a space at its very beginning, which some
tokenizers drop, and for special tokens, which the text leaves out).
"""

from __future__ import annotations

import functools
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes it


class TokenTexts:
    """The tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {int(token): str(added.content) for token, added in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = backend is not None and b"ByteLevel" in bytes(backend.decoder.__getstate__())

    def of(self, token_id: int) -> bytes:
        """The token's bytes; none for a number that is no token."""
        if (added := self._added.get(token_id)) is not None:
            return added.encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < len(self._tokenizer) else None
        if token is None:
            return b""
        if self._byte_level:
            letters = _byte_level_letters()
            return b"".join(bytes([letters[c]]) if c in letters else c.encode() for c in token)
        if found := _BYTE.fullmatch(token):
            return bytes([int(found[1], 16)])
        return str(token).replace(_SPACE, " ").encode()


@functools.cache
def _byte_level_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes, as GPT-2 began: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}

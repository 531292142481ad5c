"""Which queries ask nearly the same, so that one text in many spellings counts once.

Owns two measures, both on the safe side: the text without what a reader does not notice, and vectors that point the
same way, where numbers, options and answers are equal too ("is 12 even?" is not "is 13 even?"). Pure.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence

from semievol.examples.split import asked_key
from semievol.protocols import Vectors
from semievol.types import Query

_SIGNS = frozenset("%&*/#@\\")
"""Punctuation that counts, calculates or names; so do dashes, and the symbols + < = >."""
_MARKS = frozenset(("Po", "Ps", "Pe", "Pi", "Pf"))
"""Unicode's categories of punctuation that is stripped from the ends of words: points, brackets, quotes."""
_NUMBER = re.compile(r"\d+")
_BLOCK_ROWS = 1024


def near_key(query: Query) -> str:
    """32 hex digits over what is asked, whatever case, spaces, order of options, form of characters, punctuation at the
    ends of words and invisible characters it came with. Queries of one `asked_key` have one of these.
    """
    turns = [(message.role, plain_words(message.content)) for message in query.messages or ()]
    parts = [f"{role}\x1e{content}" for role, content in turns or [("user", plain_words(query.question))]]
    if not any(content.partition("\x1e")[2] for content in parts):  # nothing but punctuation
        return asked_key(query)
    options = sorted(plain_words(option) for option in query.options or ())
    content = "\x1f".join([*parts, "", *options])
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def plain_words(text: str) -> str:
    """The words alone, in one case and form."""
    seen = "".join(
        char for char in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(char) != "Cf"
    )
    return " ".join(word for word in map(_stripped, seen.split()) if word)


def _stripped(word: str) -> str:
    start, end = 0, len(word)
    while start < end and _is_mark(word[start]):
        start += 1
    while end > start and _is_mark(word[end - 1]):
        end -= 1
    return word[start:end]


def _is_mark(char: str) -> bool:
    return not char.isalnum() and char not in _SIGNS and unicodedata.category(char) in _MARKS


def kind_of(query: Query, answer: str | None) -> Hashable | None:
    """Queries of different kinds are never near; None: this one is near to none (a conversation says more than its
    last turn).
    """
    if query.messages is not None:
        return None
    return answer, query.options, tuple(_NUMBER.findall(unicodedata.normalize("NFKC", query.question)))


def near_copies(vectors: Vectors, kinds: Sequence[Hashable | None], similarity: float) -> list[int]:
    """The rows that are near one of the same kind which came before and is no copy itself; ascending.

    Args:
        vectors: one normalised row each, (n, dimensions).
        kinds: of `kind_of`, n of them.
        similarity: cosine from which on two are near.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, kind in enumerate(kinds):
        if kind is not None:
            groups[kind].append(row)
    found: list[int] = []
    for rows in groups.values():
        kept: list[int] = []
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS]
            # One product against what is kept so far, one within the block; memory grows with a block times n.
            apart = [True] * len(block) if not kept else (vectors[block] @ vectors[kept].T).max(axis=1) < similarity
            within = vectors[block] @ vectors[block].T >= similarity
            first: list[int] = []
            for place, row in enumerate(block):
                if apart[place] and not within[place, first].any():
                    first.append(place)
                else:
                    found.append(row)
            kept += [block[place] for place in first]
    return sorted(found)

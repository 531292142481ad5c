"""Conversations as tokens in which control tokens are the chat template's alone: what people wrote stays text.

Owns how the template's control tokens are told from the same texts in a message. The conversation is rendered a second
time with the characters masked that control texts begin and end with: what is a control token then is the template's.
Where the two differ, the template's are put back under private names, in a copy of the tokenizer that knows the control
tokens by these names alone, and the whole is read in one go, as ever. So template and tokenizer may trim, rewrite or
normalize as they like. transformers' `sanitize_control_tokens` marks whole control texts in single messages and reads
the pieces apart; a token in two halves, or one that a normalizer brings about, passes it. Invariants: without a control
text in a message the tokens are those of the tokenizer itself; a text that cannot be kept apart is refused.
"""

from __future__ import annotations

import json
import secrets
import string
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from semievol.engines.plain.control_texts import edges, folded, is_control
from semievol.errors import DataError

_MASKS_FROM = 0xF0000
"""Private use, in every place where a template looks for white space or for nothing."""

Render = Callable[[Sequence[str]], str]
"""Writes a conversation with these contents."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a conversation; `neutralised`: a text in it would have become a control token."""

    ids: list[int]
    neutralised: bool = False


@dataclass(frozen=True, slots=True)
class _Control:
    """A control token in a text, with the characters that it takes."""

    id: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Renamed:
    """A tokenizer that knows control tokens by private names; `names` by id, `ids` back to those of the model."""

    backend: Any
    nonce: str
    names: dict[int, str]
    ids: dict[int, int]


@dataclass(slots=True)
class PlainText:
    """Reads conversations with one transformers tokenizer; from any thread."""

    tokenizer: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Fast tokenizers refuse to be borrowed by two threads at once: whoever else uses this one takes it too."""
    _literals: dict[str, int] = field(init=False)
    _edges: frozenset[str] = field(init=False)
    _ids: frozenset[int] = field(init=False)
    _unknown: str | None = field(init=False)
    _by_char: dict[str, bool] = field(init=False, default_factory=dict)
    _renamed: _Renamed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        special = frozenset(self.tokenizer.all_special_tokens)
        template = str(self.tokenizer.chat_template or "")
        self._literals = {
            token.content: number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if is_control(token.content, token.special or token.content in special, template)
        }
        self._edges = edges(self._literals)
        unknown = self.tokenizer.unk_token
        self._unknown = unknown if unknown in self._literals else None
        # Text may be unknown without naming the token for it.
        self._ids = frozenset(self._literals.values()) - {self.tokenizer.unk_token_id}

    def encode(self, render: Render, contents: Sequence[str]) -> Encoded:
        """The tokens of the conversation that `render` writes with `contents`.

        Raises:
            DataError: a text in it cannot be told from a control token.
        """
        text = render(contents)
        with self.lock:
            ids = self._plain_ids(text)
            mask = self._mask(contents)
        if not mask:
            return Encoded(ids)
        table = str.maketrans(mask)
        back = str.maketrans({masked: char for char, masked in mask.items()})
        masked = render([content.translate(table) for content in contents])
        with self.lock:
            controls = self._controls(masked)
            if self._is_harmless(ids, controls, contents, unmoved=masked.translate(back) == text):
                return Encoded(ids)
            wanted = [control.id for control in controls]
            neutral = self._neutral_ids(masked, back, controls, contents)
            if [each for each in neutral if each in self._ids] != wanted:
                raise DataError(
                    "messages: a text in them reads as a control token of the model, and cannot be kept apart"
                )
        return Encoded(neutral, neutralised=True)

    def _is_harmless(
        self, ids: Sequence[int], controls: Sequence[_Control], contents: Sequence[str], *, unmoved: bool
    ) -> bool:
        """Whether the control tokens among `ids` are the template's; `unmoved`: masks changed nothing else in it."""
        if [each for each in ids if each in self._ids] != [control.id for control in controls]:
            return False
        if self._unknown is not None and any(self._unknown in content for content in contents):
            return False
        return unmoved or not any(literal in content for content in contents for literal in self._literals)

    def _plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])

    def _mask(self, contents: Iterable[str]) -> dict[str, str]:
        """A private character for each that may begin or end a control text; those of contents stay theirs."""
        present = frozenset().union(*contents)
        suspect = sorted(char for char in present if self._is_edge(char))
        free = (chr(code) for code in range(_MASKS_FROM, _MASKS_FROM + 0xFFFE) if chr(code) not in present)
        return dict(zip(suspect, free, strict=False))

    def _is_edge(self, char: str) -> bool:
        if char not in self._by_char:
            forms = {char, *folded(char)}
            normalizer = getattr(self._backend, "normalizer", None)
            if normalizer is not None and not char.isspace() and not "\ud800" <= char <= "\udfff":
                forms.update(normalizer.normalize_str(char))
            self._by_char[char] = not self._edges.isdisjoint({part for form in forms for part in folded(form)})
        return self._by_char[char]

    @property
    def _backend(self) -> Any:
        """The tokenizers library's tokenizer; None: this one is written in Python."""
        return self.tokenizer.backend_tokenizer if self.tokenizer.is_fast else None

    def _controls(self, masked: str) -> list[_Control]:
        """The control tokens in a text of which no other character can begin or end one."""
        if self._backend is None:
            return [_Control(self._literals[part], at, at + len(part)) for part, at in self._parts(masked)]
        read = self.tokenizer(masked, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True)
        return [
            _Control(number, start, end)
            for number, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
            if number in self._ids
        ]

    def _neutral_ids(
        self, masked: str, back: dict[int, str], controls: Sequence[_Control], contents: Sequence[str]
    ) -> list[int]:
        pieces, at = [], 0
        for control in controls:
            pieces.append(masked[at : control.start].translate(back))
            at = control.end
        pieces.append(masked[at:].translate(back))
        if self._backend is None:
            return self._read_apart(pieces, controls)
        renamed = self._tokenizer_for(contents)
        text = pieces[0] + "".join(
            renamed.names[control.id] + piece for control, piece in zip(controls, pieces[1:], strict=True)
        )
        ids = renamed.backend.encode(text, add_special_tokens=False).ids
        return [renamed.ids.get(each, each) for each in ids]

    def _tokenizer_for(self, contents: Sequence[str]) -> _Renamed:
        """The copy, with names that nobody wrote."""
        while self._renamed is None or any(self._renamed.nonce in content for content in contents):
            self._renamed = _renamed(self._backend, self._literals)
        return self._renamed

    # --- tokenizers written in Python ---------------------------------------------------------------------------------

    def _parts(self, masked: str) -> list[tuple[str, int]]:
        """The control texts in a masked text, each with its place, as the tokenizer finds them."""
        found, at = [], 0
        for part in self.tokenizer.tokens_trie.split(masked):
            if self._literals.get(part) in self._ids:
                found.append((part, at))
            at += len(part)
        return found

    def _read_apart(self, pieces: Sequence[str], controls: Sequence[_Control]) -> list[int]:
        def read(piece: str) -> list[int]:
            tokens = self.tokenizer.tokenize(piece, split_special_tokens=True) if piece else []
            return list(self.tokenizer.convert_tokens_to_ids(tokens))

        ids = read(pieces[0])
        for control, piece in zip(controls, pieces[1:], strict=True):
            ids += [control.id, *read(piece)]
        return ids


def _renamed(backend: Any, literals: dict[str, int]) -> _Renamed:
    """A copy of a fast tokenizer whose control tokens have names of letters, under which a text has to ask for them."""
    nonce = "".join(secrets.choice(string.ascii_lowercase) for _ in range(24))
    names = {literal: f"{nonce}{place:06d}".translate(_LETTERS) for place, literal in enumerate(literals)}
    content = json.loads(backend.to_str())
    content |= {"truncation": None, "padding": None, "post_processor": None}
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    _rename_in_model(content["model"], names)
    from tokenizers import Tokenizer

    copy: Any = Tokenizer.from_str(json.dumps(content))
    own = {literals[literal]: name for literal, name in names.items()}
    return _Renamed(copy, nonce, own, {copy.token_to_id(name): number for number, name in own.items()})


_LETTERS = str.maketrans("0123456789", "abcdefghij")


def _rename_in_model(model: dict[str, Any], names: dict[str, str]) -> None:
    """Also the vocabulary knows control tokens, and some models find whole entries of it in a text."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _gives_none(merge, names)]


def _gives_none(merge: str | list[str], names: dict[str, str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return not {left, right, left + right} & names.keys()

"""The texts by which a tokenizer names its control tokens, and a text without them for servers that read it themselves.

Owns which added tokens are control tokens, where their names are read (the tokenizer's files, as JSON: no tokenizer
library is loaded), and how a text is broken so that none of them can come of it. Engines that send or train on tokens
do better: see engines.plain.encoding. Invariant: `holds(broken(text))` is false, and stays so for texts that are put
together of broken ones, trimmed or not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from semievol.config.method import ModelConfig

logger = logging.getLogger(__name__)

BREAK = " "
"""A space: the one character that no tokenizer's normalization takes out from between two others."""
_LOST = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACES = " \t\r\n\u2581"
_OPENING, _CLOSING = "<[{(|\u3010\u27e8", ">]})|\u3011\u27e9"
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def is_control(content: str, special: bool, template: str = "") -> bool:
    """Whether text that reads like this added token must not become it.

    Special tokens, those in brackets, and those that the chat template writes and that are no words. Not runs of white
    space and the bytes of a byte fallback, which are how such text is read, nor what was added to the vocabulary of a
    domain.
    """
    bare = content.strip(_SPACES)
    if not bare or _BYTE.fullmatch(bare):
        return False
    if special or (len(bare) > 2 and bare[0] in _OPENING and bare[-1] in _CLOSING):
        return True
    return bare in template and not all(char.isalnum() or char.isspace() for char in bare)


@lru_cache(maxsize=4096)
def folded(char: str) -> str:
    """What is left of a character when compatibility, case and marks are taken away, as normalizers do."""
    plain = unicodedata.normalize("NFKD", char).casefold()
    return "".join(each for each in plain if unicodedata.category(each) not in ("Mn", "Cf", "Cc") or each.isspace())


def edges(literals: Iterable[str]) -> frozenset[str]:
    """The folded characters with which control texts begin and end: without any of them, text is no part of one."""
    stripped = filter(None, (literal.strip(_SPACES) for literal in literals))
    return frozenset(char for literal in stripped for end in (literal[0], literal[-1]) for char in folded(end))


class ControlTexts:
    """The control texts of one tokenizer."""

    def __init__(self, literals: Iterable[str]) -> None:
        self.literals = frozenset(literals)
        self._edges = edges(self.literals)
        self._folded = frozenset(filter(None, map(_fold, self.literals)))
        self.holds_name = lru_cache(maxsize=1024)(self.holds)
        """`holds`, of what is written alike in nearly every request: the names of fields, and roles."""

    def holds(self, text: str) -> bool:
        """Whether a control text, or a part of one at an end, stands in `text`, however it is written."""
        return self._suspect(text) and bool(self._starts(_fold(text)))

    def broken(self, text: str) -> str:
        """The text with a space in each control text, and in each part of one that the next text could complete."""
        if not self._suspect(text) or not (starts := self._starts(_fold(text))):
            return text
        chars = list(text)
        places = [place for place, char in enumerate(chars) for _ in folded(char)]
        for start, length in starts:
            inside = places[start : start + length]
            later = next((place for place in inside if place != inside[0]), None)
            if later is None:
                chars[inside[0]] = _LOST
            elif not chars[later].startswith(BREAK):
                chars[later] = BREAK + chars[later]
        whole = "".join(chars)
        return self.broken(whole) if whole != text and self.holds(whole) else whole

    def _suspect(self, text: str) -> bool:
        """Whether it may hold one: quickly no for nearly every text, for all texts of a request are looked at."""
        if text.isascii():
            return self._ascii_first.search(text) is not None or text.lstrip()[:2].lower() in self._heads
        return any(not self._edges.isdisjoint(folded(char)) for char in set(text))

    def _starts(self, plain: str) -> list[tuple[int, int]]:
        """Where control texts begin in a folded text, and how many of its characters they are."""
        found: list[tuple[int, int]] = []
        if not self._firsts.isdisjoint(plain):
            found += [(match.start(), len(match[1])) for match in self._pattern.finditer(plain)]
            end = plain.rstrip()
            for length in range(2, min(self._longest, len(end) + 1)):
                if end[-length] in self._firsts and end[-length:] in self._beginnings:
                    found.append((len(end) - length, length))
        begin = plain.lstrip()
        if not self._lasts.isdisjoint(begin[: self._longest]):
            for length in range(2, min(self._longest, len(begin) + 1)):
                if begin[length - 1] in self._lasts and begin[:length] in self._endings:
                    found.append((len(plain) - len(begin), length))
        return found

    @cached_property
    def _ascii_first(self) -> re.Pattern[str]:
        """Where a control text may begin, or a character that is read over within one."""
        plain = [*sorted(filter(str.isascii, self._firsts)), *map(chr, _ASCII_CONTROLS)]
        return re.compile(f"[{''.join(map(re.escape, plain))}]", re.ASCII | re.IGNORECASE)

    @cached_property
    def _heads(self) -> frozenset[str]:
        """The first two characters of what may end a control text that the text before began."""
        return frozenset(each[:2] for each in self._endings)

    @cached_property
    def _firsts(self) -> frozenset[str]:
        return frozenset(each[0] for each in self._folded)

    @cached_property
    def _lasts(self) -> frozenset[str]:
        return frozenset(each[-1] for each in self._folded)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._folded), default=0)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._folded, key=len, reverse=True)
        return re.compile(f"(?=({'|'.join(map(re.escape, longest_first)) or '(?!)'}))")

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(each[:length] for each in self._folded for length in range(2, len(each)))

    @cached_property
    def _endings(self) -> frozenset[str]:
        return frozenset(each[-length:] for each in self._folded for length in range(2, len(each)))


_ASCII_CONTROLS = dict.fromkeys(
    code for code in range(128) if unicodedata.category(chr(code)) == "Cc" and not chr(code).isspace()
)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower().translate(_ASCII_CONTROLS)
    return "".join(map(folded, text))


COMMON = ControlTexts(
    [
        *("<|", "|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "<cls>", "<sep>"),
        *("<start_of_turn>", "<end_of_turn>", "<turn", "<turn|", "<<SYS>>", "<</SYS>>", "<s/>"),
        *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[CALL_ID]", "[ARGS]", "[IMG]"),
        *("[THINK]", "[/THINK]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[gMASK]", "[sMASK]", "[|", "|]"),
        *("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[BOS]", "[EOS]"),
        *("<repo_name>", "<reponame>", "<filename>", "<file_sep>", "<gh_stars>", "<issue_start>", "<issue_comment>"),
        *("<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>"),
        *("<jupyter_script>", "<empty_output>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<image>", "<unused", "<extra_id_", "<reserved_"),
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    ]
)
"""Those of the model families that people serve, for a tokenizer that cannot be read."""


def read_control_texts(name: str, revision: str | None) -> ControlTexts | None:
    """The control texts in the files of `name`, a directory or a model in the hub's cache; None: not there."""
    contents: dict[str, Mapping[str, Any]] = {}
    for file in _FILES:
        path = _path(name, revision, file)
        try:
            content = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("model.name: cannot read %s (%s)", path, error)
            continue
        if content and isinstance(content, dict):
            contents[file] = content
    if not contents:
        return None
    template = str(contents.get("tokenizer_config.json", {}).get("chat_template") or "")
    if (path := _path(name, revision, "chat_template.jinja")) is not None:
        template += path.read_text(encoding="utf-8", errors="replace")
    named = (each for file, content in contents.items() for each in _named(file, content))
    return ControlTexts({text for text, special in named if is_control(text, special, template)})


def control_texts_of(model: ModelConfig | None) -> ControlTexts:
    """Those of the model's tokenizer; where its files are not here, those of the usual families."""
    found = None if model is None else read_control_texts(model.name, model.revision)
    if found is None and model is not None:
        logger.warning(
            "model.name: no tokenizer files of %s are here; the control texts of the usual model families are taken "
            "for its own",
            model.name,
        )
    return COMMON if found is None else found


def _path(name: str, revision: str | None, file: str) -> Path | None:
    """Where a file of a model is; of the hub's cache its layout is read, for which no package has to be there."""
    directory = Path(name)
    if not directory.is_dir():
        home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
        reference = cache / "refs" / (revision or "main")
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        if commit is None:
            return None
        directory = cache / "snapshots" / commit
    return directory / file if (directory / file).is_file() else None


def _named(file: str, content: Mapping[str, Any]) -> Iterable[tuple[str, bool]]:
    """What a file names as an added token, and whether as a special one."""
    if file == "added_tokens.json":
        yield from ((text, False) for text in content)
        return
    added = content.get("added_tokens") or []
    decoder = content.get("added_tokens_decoder") or {}
    for token in [
        *(added if isinstance(added, list) else []),
        *(decoder.values() if isinstance(decoder, dict) else []),
    ]:
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield token["content"], bool(token.get("special"))
    for key, value in content.items():
        if key.endswith("_token") or key in ("additional_special_tokens", "extra_special_tokens"):
            for each in value.values() if key == "extra_special_tokens" and isinstance(value, dict) else _listed(value):
                text = each.get("content") if isinstance(each, dict) else each
                if isinstance(text, str):
                    yield text, True


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

"""Answers on disk, each written down as it comes: what was paid for outlives the process that asked for it.

    PATH   one JSON object a line: `key` says what was asked of what, `completions` what was answered

Owns the format, and what makes two requests the same. Invariants: a line that was cut off is as if it were not there;
a request whose model, adapter, prompt or sampling differs in anything has another key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semievol.types import Completion, GenerationRequest, Sampling

# The adapter is the request's; `details` are for clients of the gateway, and labelling asks for none.
_LEFT_OUT = ("adapter", "details")


class AnswerFile:
    """The answers of one command. Nothing is written before the first."""

    def __init__(self, path: Path, engine: Mapping[str, Any]) -> None:
        """Look through what an earlier run left.

        Args:
            path: the file; its folder exists.
            engine: the settings that decide what an engine answers, as JSON values.
        """
        self._path = path
        self._engine = json.dumps(engine, sort_keys=True)
        self._places: dict[str, int] = {}
        self._end = 0
        if path.exists():
            self._look_through()

    def get(self, request: GenerationRequest, version: str | None) -> list[Completion] | None:
        """What was answered to it, if anything; `version` tells the adapter's content."""
        place = self._places.get(self._key(request, version))
        if place is None:
            return None
        with self._path.open("rb") as file:
            file.seek(place)
            row = json.loads(file.readline())
        if row["key"] != self._key(request, version):
            return None
        return [
            Completion(
                **{
                    **each,
                    "token_ids": tuple(each["token_ids"]),
                    "logprobs": tuple(each["logprobs"]),
                    "adapter": request.adapter,
                }
            )
            for each in row["completions"]
        ]

    def add(self, request: GenerationRequest, version: str | None, answer: list[Completion]) -> None:
        """Write an answer down; after this it is the operating system's to keep."""
        key = self._key(request, version)
        completions = [
            {name: value for name, value in asdict(each).items() if name not in _LEFT_OUT} for each in answer
        ]
        line = json.dumps({"key": key, "completions": completions}).encode() + b"\n"
        self._path.touch()
        with self._path.open("r+b") as file:
            file.truncate(self._end)  # what was cut off
            file.seek(self._end)
            file.write(line)
        self._places[key] = self._end
        self._end += len(line)

    def remove(self) -> None:
        """Nobody will ask again: what was made of the answers is kept elsewhere."""
        self._path.unlink(missing_ok=True)
        self._places.clear()
        self._end = 0

    def _look_through(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                with suppress(ValueError, KeyError, TypeError):  # damaged: it is asked again
                    self._places[json.loads(line)["key"]] = self._end
                self._end += len(line)

    def _key(self, request: GenerationRequest, version: str | None) -> str:
        asked = asdict(request) | {"adapter": version, "interactive": None}
        if request.sampling == Sampling():  # as before there was such a field: answers written down then still count
            del asked["sampling"]
        if request.prompt is None:
            del asked["prompt"]
        if request.temperature == 0:  # greedy answers do not depend on the seed
            asked["seed"] = 0
        # Who asks, and how patiently, makes no other answer; the tokens are those of the messages.
        del asked["turn"], asked["time_s"], asked["prompt_ids"]
        text = f"{self._engine}\n{json.dumps(asked, sort_keys=True)}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

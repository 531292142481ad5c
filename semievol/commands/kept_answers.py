"""Answers of a command, kept in a file beside its output until that is complete: each is asked and paid for once.

Owns which settings decide an answer, and when the file goes. The file itself is engines.answer_file's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from semievol.config.method import MethodConfig
from semievol.engines.answer_file import AnswerFile
from semievol.engines.remembered import RememberedAnswers
from semievol.errors import ConfigError, TransientError
from semievol.file_lock import FileLock
from semievol.protocols import Generator
from semievol.runs.directory import decisive_settings

FILE = "answers.jsonl"
"""The file's name in a directory."""
_DECISIVE = ("model", "generation", "models")


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """A generator that asks only for what no earlier run of the command was answered."""

    generator: Generator
    _file: AnswerFile

    def no_longer_needed(self) -> None:
        """The output is written, and complete."""
        self._file.remove()


@asynccontextmanager
async def kept_answers(generator: Generator, config: MethodConfig, path: Path) -> AsyncIterator[KeptAnswers]:
    """Keep what `generator` answers in `path`, whose folder exists.

    Raises:
        ConfigError: another run keeps its answers there.
        TransientError: of the block, with the place of the answers and what to do.
    """
    settings = decisive_settings(config)
    guard = path.with_name(f".{path.name}.lock")
    lock = FileLock.take(guard)
    if lock is None:
        raise ConfigError(f"{path}: another run keeps its answers there; wait for it, or write to another output")
    with lock:
        file = AnswerFile(path, {name: settings[name] for name in _DECISIVE})
        try:
            yield KeptAnswers(RememberedAnswers(generator, file), file)
        except TransientError as error:
            raise TransientError(
                f"{error}; what was answered is kept in {path}: run the same command again, and only the rest is asked"
            ) from error
        finally:
            guard.unlink(missing_ok=True)  # nothing of ours stays beside an output


def beside(out: Path) -> Path:
    """The file for an output that is a file itself."""
    return out.with_name(f"{out.name}.answers")

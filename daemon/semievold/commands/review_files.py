"""`review export` and `review import`: items to labelling tools, and their answers back.

Owns reading, writing and the report; forms are semievold.review.exchange. All answers of a file are checked before the
first becomes a label, and one that an item has already counts for nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from semievol.durable_files import write_durably
from semievol.errors import ConfigError, DataError
from semievol.examples.files import rows_of
from semievold.commands.exporting import free_path
from semievold.errors import StateConflict
from semievold.review.answering import Reviewers, UnknownItem, Which
from semievold.review.exchange import FORMATS, KNOWN, Said, exported, said_in

MAX_PROBLEMS = 20


def export_items(
    reviewers: Reviewers, target: str, form: str, kind: Which | None, *, overwrite: bool
) -> dict[str, Any] | None:
    """Write what waits for a tool; the report, or None where it went to standard output (`-`).

    Raises:
        ConfigError: the format is unknown, or the file is there already.
    """
    chosen = next((each for each in FORMATS if each == form), None)
    if chosen is None:
        raise ConfigError(f"--format: {form!r} is none of {', '.join(FORMATS)}")
    seen = reviewers.waiting(kind)
    text = exported(seen["items"], chosen)
    if target == "-":
        sys.stdout.write(text)
        return None
    path = free_path(target, overwrite=overwrite)
    write_durably(path, text)
    return {"file": str(path), "format": chosen, "items": len(seen["items"]), "nothing": seen["nothing"]}


async def import_answers(reviewers: Reviewers, source: str, *, skip_invalid: bool) -> dict[str, Any]:
    """Give the answers of a file that a labelling tool has exported to the items that they are of.

    Raises:
        DataError: an answer or the file is wrong; nothing was given (with `skip_invalid`: all that is right was).
        ConfigError: the file is not there.
    """
    answers: list[tuple[str, Said]] = []
    problems: list[str] = []
    rows = unanswered = 0
    for place, row in rows_of(source, KNOWN):
        rows += 1
        try:
            if isinstance(row, DataError):
                raise row
            said = said_in(row)
            if said is None:
                unanswered += 1
                continue
            answers.append((reviewers.checked(said.review, said.query_id, said.answer), said))
        except (DataError, UnknownItem) as error:
            problem = f"{place}: {error}"
            if not skip_invalid:
                raise DataError(f"{problem} (--skip-invalid takes the rest)") from error
            problems.append(problem)
    given = known = 0
    for key, said in answers:
        try:
            await reviewers.give(key, said.answer, "import")
            given += 1
        except StateConflict:  # it has its label: this file was imported before, or somebody was faster
            known += 1
    return {
        "records": rows,
        "labels": given,
        "already_labelled": known,
        "unanswered": unanswered,
        "invalid": len(problems),
        "problems": problems[:MAX_PROBLEMS],
    }

"""A pseudo-label as columns of its row, and back.

Owns what is done to values on the way: what a model wrote is made fit for every database, and a row that an older
version, or a hand, has written is read as far as it can be. Invariant: reading names the row that it cannot read, and
leaves the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import RowMapping

from semievol.errors import DataError
from semievol.examples.json_values import mended_text
from semievol.examples.records import stored_query
from semievol.types import CandidateAnswer, PseudoLabel, Query

logger = logging.getLogger(__name__)


def label_columns(label: PseudoLabel) -> dict[str, Any]:
    """The columns that a label itself decides."""
    return {
        "answer": None if label.answer is None else mended_text(label.answer),
        "entropy": math.inf if math.isnan(label.entropy) else label.entropy,
        "agreement": label.agreement,
        "confidence": label.confidence,
        "justified": label.justified,
        "adapter": label.adapter,
        "neighbours": [list(neighbour) for neighbour in label.neighbours],
        "candidates": [_candidate_to_json(candidate) for candidate in label.candidates],
    }


def _candidate_to_json(candidate: CandidateAnswer) -> dict[str, Any]:
    # JSON has no infinity, and PostgreSQL refuses the word: null is an infinite entropy
    entropy = candidate.entropy if math.isfinite(candidate.entropy) else None
    return {
        "configuration": candidate.configuration,
        "text": mended_text(candidate.text),
        "answer": None if candidate.answer is None else mended_text(candidate.answer),
        "entropy": entropy,
    }


def _candidate_from_json(value: Mapping[str, Any]) -> CandidateAnswer:
    entropy = math.inf if value["entropy"] is None else value["entropy"]
    return CandidateAnswer(value["configuration"], value["text"], value["answer"], entropy)


def readable_labels(rows: Iterable[RowMapping]) -> Iterator[tuple[str, PseudoLabel]]:
    for row in rows:
        try:
            yield row["query_id"], label_of(row)
        except DataError as error:
            logger.warning("%s; it is left out", error)


def label_of(row: RowMapping, *, question_needed: bool = True) -> PseudoLabel:
    """The label of a row.

    Raises:
        DataError: the query cannot be read, and is needed; names the row.
    """
    try:
        query = stored_query(row["query"], row["query_id"])
    except (DataError, TypeError) as error:
        if question_needed:
            raise DataError(f"pseudo_labels: row {row['query_id']!r} cannot be read: {error}") from error
        query = Query(row["query_id"], "")
    return PseudoLabel(
        query=query,
        answer=row["answer"],
        entropy=row["entropy"],
        agreement=row["agreement"],
        confidence=row["confidence"],
        justified=row["justified"],
        adapter=row["adapter"],
        neighbours=tuple((neighbour[0], neighbour[1]) for neighbour in row["neighbours"]),
        candidates=tuple(_candidate_from_json(candidate) for candidate in row["candidates"]),
    )

"""Writes the labelled examples of the state to a file, or to standard output.

Owns which examples and the report; forms and files are semievol.examples.exporting. Works whether or not the daemon
runs; labels that still wait in the stream are not among them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from semievol.config.section import usable_path
from semievol.errors import ConfigError
from semievol.examples.exporting import FORMS, ExportForm, exported, write_examples, write_lines
from semievold.store.stores import Stores

SIDES = ("all", "training", "holdout", "calibration")


def free_path(target: str, *, overwrite: bool) -> Path:
    """The file that may be written.

    Raises:
        ConfigError: it is there already, or no system takes its name.
    """
    try:
        path = usable_path(Path(target))
    except ValueError as error:
        raise ConfigError(f"{target}: {error}") from None
    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: is there already; name another file, or add --overwrite")
    return path


def export_labels(stores: Stores, target: str, *, form: str, side: str, overwrite: bool) -> dict[str, Any] | None:
    """Write the examples on a side, by id; the report, or None where they went to standard output (`-`).

    Raises:
        ConfigError: an option is unknown, or the file is there already.
        DataError: an example does not fit the form.
    """
    if form not in get_args(ExportForm):
        raise ConfigError(f"--form: {form!r} is none of {', '.join(FORMS)}")
    if side not in SIDES:
        raise ConfigError(f"--side: {side!r} is none of {', '.join(SIDES)}")
    chosen: ExportForm = next(each for each in FORMS if each == form)
    examples = stores.examples.training() if side in ("all", "training") else []
    examples += stores.examples.holdout() if side in ("all", "holdout") else []
    examples += stores.examples.calibration() if side in ("all", "calibration") else []
    examples.sort(key=lambda example: example.id)
    if target == "-":
        write_lines(sys.stdout, [exported(example, chosen) for example in examples])
        return None
    path = free_path(target, overwrite=overwrite)
    return {"file": str(path), "form": chosen, "examples": write_examples(path, examples, chosen)}

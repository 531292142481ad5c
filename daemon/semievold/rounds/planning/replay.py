"""A round done again from what the state kept of it: the same rows, the same weights? And what another rule had chosen.

Owns the comparison. Nothing is written to state or artifacts: a training runs in a directory that is gone afterwards.
No model is asked: a round's pseudo-labels are kept, in the revisions that it saw; settings that would have changed what
models answered are refused by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from semievol.config.secrets import HIDDEN
from semievol.config.wording import explain
from semievol.errors import ConfigError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.embedding.opening import build_embedder
from semievol.examples.resident import ResidentExampleIndex
from semievol.protocols import Embedder, ExampleIndex
from semievol.tasks.task import Task
from semievol.training.job import write_snapshot
from semievold.config.daemon import DaemonConfig
from semievold.errors import StateConflict
from semievold.rounds import snapshot
from semievold.rounds.launch import Launcher, TrainingPlace
from semievold.rounds.places import RoundPlace
from semievold.rounds.pool import STALE, Judged
from semievold.rounds.snapshot import Snapshot
from semievold.store.lineage.then import Then, state_of
from semievold.store.rounds import Round
from semievold.store.stores import Stores

OF_THEN = ("seed", "task", "model", "embedding", "labelling", "selection", "training", "rounds", "trigger", "gate")
"""The sections that decide what a round chooses and trains; the others are today's."""
WITHOUT_MODELS = ("selection.", "labelling.consensus", "labelling.probe", "labelling.batch_size")
"""What can be set otherwise without asking a model anew."""
CALIBRATED = (
    "rests on what models answer to the calibration examples, which no round keeps; start a round (`semievol "
    "rounds start`), or ask about a plain rule (--set selection.risk=null, --set selection.by=entropy)"
)
GONE = "it is not in the state any more"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out. chosen: the round as it would be chosen now; then: as it was."""

    round_: Round
    then: Then
    config: DaemonConfig
    chosen: Snapshot

    @property
    def same_rows(self) -> bool:
        return bool(self.chosen.manifest["rows_hash"] == (self.round_.snapshot or {})["rows_hash"])

    def selected(self) -> dict[str, Any]:
        """Ids that the one chose and the other did not, each with the reason of the other."""
        then = {id_ for id_, member in self.then.members.items() if member.selected}
        now = set(self.chosen.manifest["selected_ids"])
        why_then = {id_: member.reason for id_, member in self.then.members.items()}
        why_now = {member.query_id: member.reason for member in self.chosen.members}
        return {
            "then": len(then),
            "now": len(now),
            "both": len(then & now),
            "only_then": {id_: why_now.get(id_, GONE) for id_ in sorted(then - now)},
            "only_now": {id_: why_then[id_] for id_ in sorted(now - then)},
        }

    def report(self) -> dict[str, Any]:
        """The comparison of snapshots."""
        before = self.round_.snapshot or {}
        after = self.chosen.manifest
        held = {example.id for example in self.then.stores.examples.training()}
        return {
            "round": self.round_.number,
            "examples": {"then": len(self.then.example_ids), "gone": sorted(self.then.example_ids - held)},
            "pool": {"then": len(self.then.members), "now": len(self.chosen.members)},
            "selected": self.selected(),
            "threshold": {"then": before.get("threshold"), "now": after["threshold"]},
            "rows": {
                "then": before.get("rows"),
                "now": after["rows"],
                "hash_then": before.get("rows_hash"),
                "hash_now": after["rows_hash"],
                "equal": self.same_rows,
            },
        }


def again(stores: Stores, config: DaemonConfig, place: RoundPlace, number: int, given: Sequence[str] = ()) -> Replayed:
    """Choose once more what a round chose; with `given` (`selection.theta=0.3`), by other settings. Blocking.

    Raises:
        ConfigError: a setting is none, is wrong, or is one that only models could answer.
        StateConflict: there is no such round, or the state does not know any more what it saw.
        TransientError: the endpoint that embeds does not answer.
    """
    round_ = stores.rounds.get(number)
    if round_ is None:
        raise StateConflict(f"there is no round {number}; `semievol rounds list` shows them")
    if round_.snapshot is None or not stores.lineage.examples_of(number):
        raise StateConflict(f"round {number} is {round_.state}: it chose nothing that could be chosen again")
    then = state_of(stores, config.workload.name, number)
    of_then = _config_of_then(config, round_)
    settings = changed(of_then, given)
    theta = round_.snapshot.get("theta")
    if settings.selection.theta == "auto" and settings.selection.by == of_then.selection.by and theta is not None:
        # The rule behind it may be another one today.
        selection = settings.selection.model_copy(update={"theta": theta})
        settings = settings.model_copy(update={"selection": selection})
    if settings.selection.calibrated and given:
        raise ConfigError(f"selection.{'by: learned' if settings.selection.risk is None else 'risk'}: {CALIBRATED}")
    needs_vectors = settings.labelling.hears_others or settings.training.neighbours_in_prompt > 0
    embedder: Embedder = build_embedder(settings.embedding) if needs_vectors else HashingEmbedder(1)
    task, index, parent = Task(settings.task), _index(settings, then, embedder), _parent(round_, stores, place)
    if settings.selection.calibrated:
        chosen = snapshot.compose(then.stores, index, task, settings, round_, parent, _as_it_was(then))
    else:
        refused = {id_: STALE for id_, member in then.members.items() if member.reason == STALE}
        chosen = snapshot.choose(then.stores, index, embedder, task, settings, round_, parent, refused)
    return Replayed(round_, then, settings, chosen)


async def trained_again(replayed: Replayed, stores: Stores, launcher: Launcher) -> dict[str, Any]:
    """Train on the rows in a directory of its own, and compare the weights with those of the round's adapter.

    Raises:
        AdapterError: the training failed.
        TransientError: there is no place to train at present.
    """
    version = None if replayed.round_.adapter is None else stores.adapters.get(replayed.round_.adapter)
    if version is None:
        return {"then": None, "note": "the round made no adapter"}
    if not replayed.same_rows:
        return {"then": version.content_hash, "note": "not trained: the rows are others"}
    with tempfile.TemporaryDirectory(prefix="semievol-replay-") as directory:
        place = TrainingPlace(*(Path(directory) / name for name in ("snapshot", "work", "adapters")))
        write_snapshot(place.snapshot, replayed.chosen.job, replayed.chosen.rows)
        place.adapters.mkdir()
        made = await launcher.train(place)
    return {
        "then": version.content_hash,
        "now": made.content_hash,
        "equal": made.content_hash == version.content_hash,
    }


def changed(config: DaemonConfig, given: Sequence[str]) -> DaemonConfig:
    """The configuration with other settings of selection or labelling.

    Raises:
        ConfigError: names the setting, and why it cannot be.
    """
    values = config.model_dump(mode="json")
    for text in given:
        key, is_, value = text.partition("=")
        if not is_ or not key:
            raise ConfigError(f"--set: {text[:80]!r} is no setting; write it as selection.theta=0.3")
        if not key.startswith(("selection.", "labelling.")):
            raise ConfigError(f"--set: {key[:80]!r} is no setting of selection or labelling")
        if not key.startswith(WITHOUT_MODELS):
            raise ConfigError(
                f"--set: {key}: would have other answers of the model, which this command does not ask; set it in the "
                "configuration, and the next round labels its pool again"
            )
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set: {key}: {value[:80]!r} is no value in YAML") from None
        if key.startswith("selection.risk") and read is not None:
            raise ConfigError(f"--set: {key}: {CALIBRATED}")
        _put(values, key.split("."), read)
    return _validated(values, "--set")


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    at = values
    for name in path[:-1]:
        found = at.get(name)
        if not isinstance(found, dict):
            found = at[name] = {}
        at = found
    at[path[-1]] = value
    if path == ["selection", "theta"]:
        values["selection"]["theta_by_round"] = []  # it would be passed over


def _config_of_then(config: DaemonConfig, round_: Round) -> DaemonConfig:
    """Today's configuration with the sections that the round was chosen by.

    Raises:
        ConfigError: this version does not read what an earlier one had.
    """
    today = config.model_dump(mode="json")
    kept = (round_.snapshot or {}).get("config") or {}
    of_then = {name: _with_secrets(kept[name], today.get(name)) for name in OF_THEN if name in kept}
    consensus = of_then.get("labelling", {}).get("consensus")
    if consensus and consensus.get("method", "centres") == "centres":  # spreading takes no word of it
        consensus.setdefault("words", 0.0)  # a round from before it heard them
    found = (round_.snapshot or {}).get("training")
    if found and "auto" in of_then.get("training", {}).values():  # the rule behind it may be another one today
        # What was found is of the round's own kind, so that nothing may stand before it.
        of_then["training"] = {**of_then["training"], **found, "warm_learning_rate": None, "warm_epochs": None}
    return _validated({**today, **of_then}, f"the settings of round {round_.number}")


def _with_secrets(then: Any, today: Any) -> Any:
    """What was kept without secrets, with those of today."""
    if isinstance(then, dict):
        now = today if isinstance(today, dict) else {}
        return {key: _with_secrets(value, now.get(key)) for key, value in then.items()}
    return today if isinstance(then, str) and HIDDEN in then else then


def _validated(values: Mapping[str, Any], where: str) -> DaemonConfig:
    try:
        return DaemonConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(DaemonConfig, error, where)) from None


def _index(config: DaemonConfig, then: Then, embedder: Embedder) -> ExampleIndex | None:
    if config.training.neighbours_in_prompt == 0:
        return None
    index = ResidentExampleIndex(embedder)
    index.upsert_what_can_be(then.stores.examples.training())
    return index


def _parent(round_: Round, stores: Stores, place: RoundPlace) -> Path | None:
    name = (round_.snapshot or {}).get("parent")
    version = None if name is None else stores.adapters.get(name)
    return None if version is None else version.found_in(place.adapters).path


def _as_it_was(then: Then) -> Judged:
    """The verdicts of the round itself: what certified them is not kept."""
    chosen = [id_ for id_, member in then.members.items() if member.selected]
    labels = then.stores.pseudo_labels.load(sorted(chosen))
    kept = [replace(label, answer=then.members[label.query.id].answer) for label in labels]
    return Judged(kept, tuple(then.members[id_] for id_ in sorted(then.members)))

"""What the operating commands share: their options, and the configuration and state that they open.

Invariant: a command that only looks makes no state where there is none: its directory may be mistyped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semievol.errors import ConfigError
from semievold.commands import output

if TYPE_CHECKING:
    from semievold.config.daemon import DaemonConfig
    from semievold.rounds.places import RoundPlace
    from semievold.store.stores import Stores

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="SEMIEVOL_CONFIG", help="The daemon's YAML file.", show_default=True)
]
Output = Annotated[str, typer.Option("--output", "-o", help="table or json")]
DEFAULT_CONFIG = Path("semievol.yaml")


def load(path: Path) -> DaemonConfig:
    """The daemon's configuration from file and environment."""
    from semievol.config.file import load_config
    from semievold.config.daemon import DaemonConfig

    return load_config(DaemonConfig, path)


@contextmanager
def opened(path: Path, *, new: bool = False) -> Iterator[tuple[DaemonConfig, Stores, RoundPlace]]:
    """Configuration and state of the workload.

    Args:
        path: the daemon's YAML file.
        new: a state is made where there is none.

    Raises:
        ConfigError: there is none.
    """
    from semievold.service import place_of
    from semievold.store.database import file_of
    from semievold.store.stores import open_stores

    config = load(path)
    file = file_of(config.store_url)
    if not new and file is not None and not file.exists():
        raise ConfigError(
            f"store.url: there is no state in {file} yet; `semievol run` makes it, or look at artifacts.directory in "
            f"{path}"
        )
    name, alias = config.workload.name, config.workload.served_alias
    stores = open_stores(config.store_url, name, alias, feedback_trusted=config.gateway.feedback.trusted)
    try:
        yield config, stores, place_of(config)
    finally:
        stores.database.close()


def ask(path: Path, output_format: str, kind: Any, payload: dict[str, Any]) -> None:
    """Leave a request for the controller and wait for its answer."""
    from semievold.api.asking import ask as answered

    with opened(path) as (_, stores, _place):
        answer = answered(stores.requests, kind, payload)
    output.show(answer, output_format)
    raise SystemExit({"done": 0, "pending": 0}.get(answer["state"], 1))

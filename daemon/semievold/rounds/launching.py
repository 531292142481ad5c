"""Which launcher the configuration names, and whether its adapters go to object storage."""

from __future__ import annotations

from collections.abc import Callable

from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.rounds.launch import Launcher, PublishingLauncher, SubprocessLauncher
from semievold.serving.storage.opening import open_storage


def open_launcher(config: DaemonConfig) -> tuple[Launcher, Callable[[], None]]:
    """The launcher of `training.launcher`, and what closes it.

    Raises:
        ConfigError: a package is missing, or Kubernetes' client finds no credentials.
    """
    launcher, close = _by_kind(config)
    storage = open_storage(config.artifacts.storage)
    return (launcher if storage is None else PublishingLauncher(launcher, storage)), close


def _by_kind(config: DaemonConfig) -> tuple[Launcher, Callable[[], None]]:
    if config.training.launcher.kind == "local":
        return SubprocessLauncher(config.training.inherit), lambda: None
    try:
        from semievold.rounds.jobs.cluster import Cluster
        from semievold.rounds.jobs.launcher import KubernetesLauncher
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} missing: training.launcher.kind needs semievol[kubernetes]") from error
    cluster = Cluster.open(config.training.launcher)
    return KubernetesLauncher(config.workload.name, config.training, cluster), cluster.close

"""Which launcher the configuration names, whether replicas sleep meanwhile, and whether its adapters go to storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from semievol.errors import ConfigError
from semievol.http.server_address import ServerAddress
from semievold.config.daemon import DaemonConfig
from semievold.rounds.gpu.sharing import SharingLauncher
from semievold.rounds.launch import Launcher, PublishingLauncher, SubprocessLauncher
from semievold.rounds.places import RoundPlace
from semievold.serving.replicas import ReplicaSet
from semievold.serving.resting import RestFollower
from semievold.serving.storage.opening import open_storage
from semievold.store.stores import Stores

DRAIN_SLACK_S = 10.0
"""Beyond the longest time that a request may take."""


class Opened(NamedTuple):
    """The launcher of `training.launcher`, what wakes replicas that rest (None: there are none), and what closes it."""

    launcher: Launcher
    sharing: SharingLauncher | None
    close: Callable[[], None]


def open_launcher(
    config: DaemonConfig, stores: Stores, replicas: ReplicaSet | None, rests: RestFollower | None
) -> Opened:
    """Open what trains.

    Args:
        config: the whole configuration.
        stores: those whose writes are checked against the lease.
        replicas: that may have to sleep; None: the model is in this process.
        rests: takes over in this process who rests; there where `replicas` are.

    Raises:
        ConfigError: a package is missing, or Kubernetes' client finds no credentials.
    """
    launcher, close = _by_kind(config)
    sharing = None
    if replicas is not None and rests is not None:  # also where nothing is shared any more: a former setting may have
        shared = config.training.share_gpu is not None
        names = {ServerAddress.at(url, None).name for url in config.training.share_gpu_with} if shared else None
        patience_s = max(config.gateway.timeout_s, 2 * config.generation.timeout_s) + DRAIN_SLACK_S
        sharing = SharingLauncher(launcher, stores, replicas, rests, names, patience_s)
        if shared:
            launcher = sharing
    storage = open_storage(config.artifacts.storage)
    return Opened(launcher if storage is None else PublishingLauncher(launcher, storage), sharing, close)


def _by_kind(config: DaemonConfig) -> tuple[Launcher, Callable[[], None]]:
    if config.training.launcher.kind == "local":
        rounds = RoundPlace.under(config.artifacts.directory).rounds
        return SubprocessLauncher(config.training.inherit, rounds), lambda: None
    try:
        from semievold.rounds.jobs.cluster import Cluster
        from semievold.rounds.jobs.launcher import KubernetesLauncher
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} missing: training.launcher.kind needs semievol[kubernetes]") from error
    cluster = Cluster.open(config.training.launcher)
    return KubernetesLauncher(config.workload.name, config.training, cluster), cluster.close

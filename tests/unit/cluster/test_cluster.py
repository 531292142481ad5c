"""What `make cluster-test` sets up fits what k8s/ ships: images, claims, the commands of its README."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from semievol.config.file import load_config
from semievold.config.daemon import DaemonConfig
from tests.cluster import HERE, commands, images, machine, programs, set_up, storage, workload
from tests.cluster.node import DNS_ADDRESS
from tests.cluster.reach import CLIENTS, TARGETS, allowed, standing
from tests.cluster.story import Story
from tests.cluster.transcript import blocks, commands_of
from tests.manifests import containers, named, of_kind, overlay, pods, rendered


def test_every_image_of_try_is_built_under_its_name() -> None:
    asked = {each["image"] for pod in pods(overlay("try")).values() for each in containers(pod)}
    made = {image.name for image in (*images.servers(), *images.daemons())}
    assert asked <= made
    beside = {"semievol.test/pause:1", "semievol.test/coredns:1"}
    assert made - asked == beside
    for image in (*images.servers(), *images.daemons()):
        assert image.recipe.is_file()
        (start,) = {
            line.split()[1] for line in image.recipe.read_text("utf-8").splitlines() if line.startswith("FROM ")
        }
        assert start in {images.base_name(), "scratch"}, image.name


def test_every_claim_of_try_has_a_volume() -> None:
    objects = overlay("try")
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for each in of_kind(objects, "StatefulSet"):
        for template in each["spec"].get("volumeClaimTemplates", ()):
            name, owner = template["metadata"]["name"], each["metadata"]["name"]
            claims |= {f"{name}-{owner}-{number}" for number in range(each["spec"]["replicas"])}
    assert claims == set(storage.CLAIMS)


def test_the_copy_renders_with_the_workload_and_smaller_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    workload.write_workload(tmp_path)
    found = rendered(tmp_path / "k8s" / "overlays" / "try")
    shipped = overlay("try")
    assert len(found) == len(shipped)
    for name, pod in pods(found).items():
        own, its = pod["spec"]["containers"][0]["resources"], pods(shipped)[name]["spec"]["containers"][0]["resources"]
        others = "20m" if name in standing() else its["requests"]["cpu"]
        lowered = {"vllm": "200m", "training": "100m", "embedding": "100m"}.get(name, others)
        assert own["requests"].pop("cpu") == lowered, name
        assert own["limits"] == its["limits"]
        assert own["requests"].items() <= its["requests"].items()
    (text,) = [each["data"]["semievol.yaml"] for each in of_kind(found, "ConfigMap") if "semievol.yaml" in each["data"]]
    (tmp_path / "semievol.yaml").write_text(text, "utf-8")
    url = {"SEMIEVOL__STORE__URL": "postgresql+psycopg://semievol:secret@postgres/semievol"}
    config = load_config(DaemonConfig, tmp_path / "semievol.yaml", url)
    assert config.trigger.new_pseudo_labels == len((tmp_path / "queries.jsonl").read_text("utf-8").splitlines())
    assert config.generation.dns == yaml.safe_load(_config(shipped))["generation"]["dns"]


def _config(objects: list[dict[str, object]]) -> str:
    (found,) = [each["data"] for each in of_kind(objects, "ConfigMap") if "semievol.yaml" in each["data"]]  # type: ignore[operator,index]
    return str(found["semievol.yaml"])


@pytest.mark.parametrize("step", [2, 3, 4, 5, 6])
def test_the_readme_has_commands_that_a_shell_takes(step: int) -> None:
    script = Story.readme(Story.__new__(Story), step)
    assert "kubectl " in script
    assert not any(line.startswith(("> ", "( ")) for line in script.splitlines())
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Nothing in it may wait for ever.
    assert "--follow" not in script
    assert "--watch" not in script


def test_a_block_is_its_commands_without_what_they_print() -> None:
    text = "1. One\n\n   ```sh\n   a \\\n     --b\n   > said\n   # why\n   c\n   ```\n"
    (block,) = blocks(text)
    assert commands_of(block) == ["a \\\n  --b", "c"]


def test_the_ways_that_are_tried_are_those_of_the_policies() -> None:
    may = allowed()
    assert may[CLIENTS] == {"gateway"}
    assert may["labels"] == {"embedding", "kafka", "postgres"}
    assert may["intake"] == may["control"] == may["gateway"] == {"embedding", "kafka", "postgres", "vllm"}
    assert may["vllm"] == may["kafka"] == may["postgres"] == may["embedding"] == set()
    for name, (service, port) in TARGETS.items():
        ports = [each["port"] for each in named(overlay("try"), "Service", service)["spec"]["ports"]]
        assert port in ports, name


def test_dns_has_the_address_that_pods_are_told() -> None:
    objects = list(yaml.safe_load_all((HERE / "coredns.yaml").read_text("utf-8")))
    assert named(objects, "Service", "kube-dns")["spec"]["clusterIP"] == DNS_ADDRESS
    labels = named(objects, "Deployment", "coredns")["spec"]["template"]["metadata"]["labels"]
    policy = named(overlay("try"), "NetworkPolicy", "to-dns")["spec"]["egress"][0]["to"][0]["podSelector"]
    assert labels == policy["matchLabels"]


def test_the_node_of_another_cluster_is_left_alone(tmp_path: Path) -> None:
    stranger = tmp_path / "k3s-agent"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", stranger)
    before = machine.other_node()
    with subprocess.Popen([stranger, "60"]) as process:
        try:
            # A process has its program's name once it runs it.
            commands.waited("its name", lambda: machine.other_node() is not None, 20.0, 0.05)
        finally:
            process.kill()
    assert machine.other_node() == before


@pytest.mark.parametrize("group", ["kubepods", "kubepods.slice", "cpu/kubepods", "memory/kubepods.slice"])
def test_a_node_whose_kubelet_is_stopped_is_left_alone(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 of cgroups has a hierarchy a controller, version 2 a single one; systemd's names end in slice."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "RUN", tmp_path / "run")
    monkeypatch.setattr(machine, "OTHERS", ())  # this machine may be a node
    (tmp_path / "cgroup" / group).mkdir(parents=True)
    assert machine.other_node() == f"there is {tmp_path / 'cgroup' / group}, and no {tmp_path / 'run'}"
    (tmp_path / "run").mkdir()  # then it is a run's of ours
    assert machine.other_node() is None


def test_a_chain_of_a_node_is_known_among_others() -> None:
    others = ["*nat", ":DOCKER - [0:0]", '-A DOCKER -m comment --comment ":KUBE-A" -j RETURN', "COMMIT"]
    assert machine.node_chain(others) is None
    assert machine.node_chain([*others, "*filter", ":KUBE-FIREWALL - [0:0]"]) == "KUBE-FIREWALL"


def test_runs_of_all_checkouts_share_one_lock_outside_of_what_a_run_removes() -> None:
    assert machine.LOCK.parent == Path("/run")
    assert not machine.LOCK.is_relative_to(machine.RUN)


def test_only_packages_of_missing_programs_are_installed() -> None:
    assert set_up.needs([]) == []
    assert [need.packages for need in set_up.needs(["ctr", "containerd", "etcd"])] == [
        ("containerd",),
        ("etcd-server",),
    ]
    assert programs.packages([programs.CNI_PLUGIN]) == ["containernetworking-plugins"]


def test_only_the_rules_of_this_node_are_cleared() -> None:
    kept = [
        "*nat",
        ":POSTROUTING ACCEPT [0:0]",
        ":CNI-0123abcd - [0:0]",
        '-A POSTROUTING -s 10.4.0.3/32 --comment "name: \\"podman\\"" -j CNI-0123abcd',
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "COMMIT",
    ]
    ours = [
        ":KUBE-SERVICES - [0:0]",
        ":CNI-fedcba98 - [0:0]",
        '-A POSTROUTING -s 10.201.0.3/32 --comment "name: \\"semievol-test\\"" -j CNI-fedcba98',
        '-A CNI-fedcba98 ! -d 224.0.0.0/4 --comment "name: \\"semievol-test\\"" -j MASQUERADE',
        "-A OUTPUT -j KUBE-SERVICES",
    ]
    assert machine.without_ours([*kept[:3], *ours, *kept[3:]]) == kept

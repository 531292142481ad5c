"""What k8s/ lets happen: closed pods, one way a policy, no rights at Kubernetes, and room for the loss of one pod."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from semievold.rounds.jobs.cluster import RIGHTS
from tests.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    Manifest,
    containers,
    marked,
    of_kind,
    on_the_base,
    overlay,
    pods,
    selects,
    table,
    training_job,
    ways,
)

ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
IDENTITY = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


def every_rendering() -> Iterator[tuple[str, list[Manifest]]]:
    for name in OVERLAYS:
        yield f"overlays/{name}", overlay(name)
    for name in COMPONENTS:
        yield f"components/{name}", on_the_base(name)


def every_pod() -> Iterator[tuple[str, Manifest]]:
    for where, objects in every_rendering():
        for name, pod in pods(objects).items():
            yield f"{where}: {name}", pod


# --- pods -----------------------------------------------------------------------------------------------------------


def test_every_pod_keeps_to_the_restricted_profile() -> None:
    for where, pod in every_pod():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert all(each.keys() - {"name"} <= ALLOWED_VOLUMES for each in spec.get("volumes", ())), where
        for container in containers(pod):
            closed = container["securityContext"]
            assert closed["allowPrivilegeEscalation"] is False, where
            assert closed["capabilities"] == {"drop": ["ALL"]}, where
            assert closed["readOnlyRootFilesystem"] is True, where
            assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & closed.keys(), where
            assert not any("hostPort" in port for port in container.get("ports", ())), where


def test_every_namespace_enforces_the_restricted_profile() -> None:
    for name in OVERLAYS:
        (namespace,) = of_kind(overlay(name), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert {each["metadata"].get("namespace") for each in overlay(name)} == {None, namespace["metadata"]["name"]}


def test_every_container_says_what_it_needs_and_how_much_it_may_have() -> None:
    for where, pod in every_pod():
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys(), where
            assert {"memory", "ephemeral-storage"} <= resources["limits"].keys(), where
        for volume in pod["spec"].get("volumes", ()):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), where


def test_every_lasting_container_has_probes_that_differ_and_are_patient() -> None:
    for where, pod in every_pod():
        if pod["spec"].get("restartPolicy") == "Never":
            continue
        for container in pod["spec"]["containers"]:
            startup, alive, ready = (container[f"{each}Probe"] for each in ("startup", "liveness", "readiness"))
            assert alive != ready, where
            assert ready["failureThreshold"] >= 2, where
            assert all(each["timeoutSeconds"] >= 3 for each in (startup, alive, ready)), where
            longest = startup["failureThreshold"] * startup["periodSeconds"]
            assert longest > alive["failureThreshold"] * alive["periodSeconds"], where


def test_the_daemons_readiness_is_another_question_than_its_life() -> None:
    for where, pod in every_pod():
        for container in pod["spec"]["containers"]:
            if container["name"] == "semievold":
                assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}, where
                assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}, where


def test_every_image_is_pinned_by_an_exact_tag() -> None:
    for where, pod in every_pod():
        for container in containers(pod):
            _, _, tag = container["image"].rpartition(":")
            assert re.match(r"v?\d+\.\d+(\.\d+)?", tag), f"{where}: {container['image']}"


def test_no_pod_gets_the_variables_of_services() -> None:
    """A Service called vllm sets VLLM_PORT, which vLLM reads; one called kafka KAFKA_PORT, which its image reads."""
    for where, pod in every_pod():
        assert pod["spec"]["enableServiceLinks"] is False, where


# --- rights ---------------------------------------------------------------------------------------------------------


def test_control_alone_has_a_right_at_kubernetes_and_none_but_what_the_launcher_asks_for() -> None:
    asked = {(group, resource, verb) for group, resource, verb in RIGHTS}
    for where, objects in every_rendering():
        assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding"), where
        roles, bindings = of_kind(objects, "Role"), of_kind(objects, "RoleBinding")
        if training_job(objects) is None:
            assert not roles + bindings, where
            continue
        (role,), (binding,) = roles, bindings
        given = [
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]
        assert sorted(given) == sorted(asked), where
        assert binding["roleRef"]["name"] == role["metadata"]["name"], where
        assert [each["name"] for each in binding["subjects"]] == ["control"], where


def test_nobody_but_who_has_a_right_at_kubernetes_gets_a_token_for_it() -> None:
    for where, objects in every_rendering():
        accounts = {each["metadata"]["name"]: each for each in of_kind(objects, "ServiceAccount")}
        assert all(each["automountServiceAccountToken"] is False for each in accounts.values()), where
        for name, pod in pods(objects).items():
            assert pod["spec"]["serviceAccountName"] in accounts, f"{where}: {name}"
            has_right = name == "control" and training_job(objects) is not None
            assert pod["spec"]["automountServiceAccountToken"] is has_right, f"{where}: {name}"
        assert accounts.keys() == {pod["spec"]["serviceAccountName"] for pod in pods(objects).values()}, where


# --- the loss of one pod --------------------------------------------------------------------------------------------


def scaled(objects: list[Manifest]) -> set[str]:
    return {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(objects, *SCALERS)}


def test_what_a_scaler_rules_has_no_number_of_its_own() -> None:
    seen = set()
    for where, objects in every_rendering():
        for each in of_kind(objects, "Deployment", "StatefulSet"):
            name = each["metadata"]["name"]
            assert ("replicas" in each["spec"]) is (name not in scaled(objects)), f"{where}: {name}"
        seen |= scaled(objects)
    assert seen == {"gateway", "intake", "vllm"}


def test_where_there_are_two_they_are_spread_and_never_evicted_at_once() -> None:
    for where, objects in every_rendering():
        budgets = of_kind(objects, "PodDisruptionBudget")
        for each in of_kind(objects, "Deployment", "StatefulSet"):
            name, pod = each["metadata"]["name"], each["spec"]["template"]
            if each["spec"].get("replicas", 2) < 2:
                continue
            spread = pod["spec"]["topologySpreadConstraints"]
            keys = {one["topologyKey"] for one in spread}
            assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, f"{where}: {name}"
            labels = pod["metadata"]["labels"]
            assert all(one["whenUnsatisfiable"] == "ScheduleAnyway" for one in spread), f"{where}: {name}"
            assert all(selects(one["labelSelector"], labels) for one in spread), f"{where}: {name}"
            (budget,) = [one for one in budgets if selects(one["spec"]["selector"], labels)]
            assert budget["spec"]["maxUnavailable"] == 1, f"{where}: {name}"
            assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", f"{where}: {name}"
        assert all(
            any(selects(one["spec"]["selector"], pod["metadata"]["labels"]) for pod in pods(objects).values())
            for one in budgets
        ), where


def test_selectors_hold_what_never_changes() -> None:
    for where, objects in every_rendering():
        for each in of_kind(objects, "Deployment", "StatefulSet"):
            assert each["spec"]["selector"]["matchLabels"].keys() == IDENTITY, where
        for each in of_kind(objects, "Service"):
            assert each["spec"]["selector"].keys() == IDENTITY, where
        for name, pod in pods(objects).items():
            more = {"app.kubernetes.io/part-of", "app.kubernetes.io/version"}
            assert pod["metadata"]["labels"].keys() == IDENTITY | more, f"{where}: {name}"


# --- the network ----------------------------------------------------------------------------------------------------


def test_every_pod_is_closed_both_ways_before_anything_is_opened() -> None:
    for where, objects in every_rendering():
        closing = [
            each["spec"]
            for each in of_kind(objects, "NetworkPolicy")
            if not {"ingress", "egress"} & each["spec"].keys()
        ]
        assert closing == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}], where


def test_every_policy_opens_one_direction_between_named_ends_at_named_ports() -> None:
    for where, objects in every_rendering():
        for policy in of_kind(objects, "NetworkPolicy"):
            spec, name = policy["spec"], f"{where}: {policy['metadata']['name']}"
            if policy["metadata"]["name"] == "default-deny":
                continue
            (direction,) = spec["policyTypes"]
            (rule,) = spec[direction.lower()]
            assert rule["ports"], name
            assert all(peer for peer in rule["from" if direction == "Ingress" else "to"]), name


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_edge_has_a_pod_at_each_end_that_lets_it_through(name: str) -> None:
    objects = overlay(name)
    there = pods(objects)
    goes_out, comes_in = set(), set()
    for policy, pod, peer, _, port in ways(objects, "Egress"):
        assert "?" not in (pod, peer), f"{policy}: selects no pod"
        goes_out.add((pod, peer, port))
    for policy, pod, peer, _, port in ways(objects, "Ingress"):
        assert "?" not in (pod, peer), f"{policy}: selects no pod"
        comes_in.add((peer, pod, port))
        listening = [p["containerPort"] for c in containers(there[pod]) for p in c.get("ports", ())]
        ports = port if isinstance(port, range) else (port,)
        assert set(ports) & set(listening), f"{policy}: nothing listens on {port} of {pod}"
    within = {edge for edge in goes_out | comes_in if edge[0] in there and edge[1] in there}
    assert within == {edge for edge in goes_out & comes_in if edge[0] in there}, "an edge is open at one end only"


@pytest.mark.parametrize("name", OVERLAYS)
def test_engines_and_servers_are_reached_by_the_daemon_alone(name: str) -> None:
    objects = overlay(name)
    of_the_daemon = {"matchLabels": {"app.kubernetes.io/name": "semievol"}}
    daemon = {name for name, pod in pods(objects).items() if selects(of_the_daemon, pod["metadata"]["labels"])}
    for _, pod, peer, _, port in ways(objects, "Ingress"):
        if pod not in daemon and not peer.startswith("app.kubernetes.io/name=prometheus in namespace monitoring"):
            assert peer in daemon or (peer, pod) == ("training", "training"), f"{peer} reaches {pod}:{port}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_table_of_the_readme_is_what_the_policies_say(name: str) -> None:
    text = (K8S / "README.md").read_text("utf-8")
    assert marked(text, f"who reaches what in {name}") == table(overlay(name))

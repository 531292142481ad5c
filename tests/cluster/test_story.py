"""From nothing to a first promoted adapter on a real cluster, by the commands of k8s/README.md; what may not break it.

One story: each test goes on where the one before ended, so that the first failure ends it (`make cluster-test`: -x).
"""

from __future__ import annotations

import base64
import re
import time
from datetime import datetime
from typing import Any

import pytest

from tests.cluster import HERE
from tests.cluster.cluster import NAMESPACE
from tests.cluster.commands import waited
from tests.cluster.load import CLIENTS, PACE_S, STRANGERS, WORKERS, Load, python_pod
from tests.cluster.machine import STATE
from tests.cluster.reach import CLIENTS as CLIENTS_EDGE
from tests.cluster.reach import TARGETS, addresses, allowed, standing, tried
from tests.cluster.story import Story
from tests.cluster.workload import QUERIES
from tests.servers import free_port

pytestmark = pytest.mark.timeout(3_600)

READY_S = 1_500.0
ROUND_S = 2_400.0
REQUESTS = 2_000
ATTESTED_S = 120.0
"""With cores of its own it is a few seconds; the transcript has the figure."""
REQUESTS_S = 2_400.0
GOLDEN = HERE / "rights.txt"


def test_what_is_applied_becomes_ready(story: Story) -> None:
    told = story.transcript
    told.title("The namespace, which admits restricted pods alone, and the secrets")
    told.shell(story.readme(2))
    told.title("Everything")
    told.shell(story.readme(3), timeout_s=READY_S)
    told.shell("kubectl rollout status deployment/control deployment/intake deployment/labels", timeout_s=READY_S)
    told.shell("kubectl get pods --output wide")
    events = story.node.get("events", f"--namespace={NAMESPACE}")["items"]
    assert [each["message"] for each in events if "PodSecurity" in each["message"]] == []
    level = story.node.get("namespace", NAMESPACE)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted"
    told.say("A pod that asks for more than the restricted profile gives is not admitted:")
    said = told.shell(f"kubectl run root --image={'semievol-daemon:0.1.0'} --restart=Never 2>&1 || true")
    assert 'violates PodSecurity "restricted' in said


def test_a_pod_reaches_what_the_policies_name_and_nothing_else(story: Story) -> None:
    node, told = story.node, story.transcript
    told.title("Who reaches whom")
    node.kubectl("apply", "-f", HERE / "client.yaml")
    sleeping = ["sleep", "infinity"]
    node.apply(python_pod("client", CLIENTS, sleeping), python_pod("stranger", STRANGERS, sleeping),
               python_pod("stray", NAMESPACE, sleeping))  # fmt: skip
    for name, namespace in (("client", CLIENTS), ("stranger", STRANGERS), ("stray", NAMESPACE)):
        node.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--namespace={namespace}", "--timeout=120s",
                     timeout_s=150)  # fmt: skip
    time.sleep(5)  # the policies of a new pod follow within a second or two
    expected = allowed()
    sources: dict[str, tuple[str, str, str | None, set[str]]] = {
        "a pod of a namespace with semievol-gateway-clients=true": (CLIENTS, "client", None, expected[CLIENTS_EDGE]),
        "a pod of another namespace": (STRANGERS, "stranger", None, set()),
        "a pod of the same namespace without labels": (NAMESPACE, "stray", None, set()),
    }
    of_kind = {"kafka": "statefulset/kafka", "postgres": "statefulset/postgres", "vllm": "statefulset/vllm"}
    for name, pod in standing().items():
        container = pod["spec"]["containers"][0]["name"]
        sources[name] = (NAMESPACE, of_kind.get(name, f"deployment/{name}"), container, expected[name])
    found: dict[str, dict[str, Any]] = {}
    for name, (namespace, pod_name, container, _) in sources.items():
        # A server reaches its own port, whatever policies say.
        targets = [target for target in addresses(NAMESPACE) if target[0] != name]
        found[name] = tried(node, namespace, pod_name, container, targets)
    rows = ["| from | " + " | ".join(f"{service}:{port}" for service, port in TARGETS.values()) + " |",
            "|---" * (len(TARGETS) + 1) + "|"]  # fmt: skip
    words = {True: "reached", False: "refused", None: ""}
    for name, seen in found.items():
        rows.append(f"| {name} | " + " | ".join(words[seen.get(each)] for each in TARGETS) + " |")
    told.say("\n".join(rows))
    for name, (*_, may) in sources.items():
        assert {target for target, reached in found[name].items() if reached} == may - {name}, name


def test_an_account_may_do_what_the_golden_file_says(story: Story) -> None:
    told = story.transcript
    told.title("What the ServiceAccounts may do")
    accounts = story.node.get("serviceaccounts", f"--namespace={NAMESPACE}")["items"]
    holders: dict[str, list[str]] = {}
    for name in sorted(each["metadata"]["name"] for each in accounts):
        words = (f"--as=system:serviceaccount:{NAMESPACE}:{name}", f"--namespace={NAMESPACE}")
        listed = story.node.kubectl("auth", "can-i", "--list", *words).splitlines()
        rights = "\n".join([listed[0].rstrip(), *sorted(line.rstrip() for line in listed[1:])])
        holders.setdefault(rights, []).append(name)
    found = "\n\n".join(f"# {', '.join(names)}\n{rights}" for rights, names in holders.items()) + "\n"
    (STATE / GOLDEN.name).write_text(found, "utf-8")
    assert found == GOLDEN.read_text("utf-8"), f"{GOLDEN} has not what {STATE / GOLDEN.name} has"
    told.shell(f"kubectl auth can-i --list --as=system:serviceaccount:{NAMESPACE}:control")


def test_a_first_adapter_is_attested_promoted_and_served(story: Story) -> None:
    told = story.transcript
    told.title("Labelled examples, and queries that nobody labelled")
    told.shell(story.readme(4))
    told.title("The first round")
    round_ = story.round_ended(0, ROUND_S)
    told.shell(story.readme(5))
    assert round_["state"] == "settled", round_
    adapter = round_["adapter"]
    assert story.semievol("status")["serving"] == adapter
    told.title("The queries are answered by it")
    waited("the labels of every query", lambda: _labelled(story) == QUERIES, ROUND_S, 3.0)
    told.shell("kubectl exec deploy/control -- semievol status")
    told.title("Asking it")
    port = str(free_port())
    commands = re.sub(r"\b8320\b(?! &)", port, story.readme(6)).replace("gateway 8320", f"gateway {port}:8320")
    said = told.shell(commands, timeout_s=400.0)
    assert '"model":"support"' in said.replace(" ", "")


def test_under_load_nothing_fails_whatever_is_rolled_lost_or_restarted(story: Story) -> None:
    node, told = story.node, story.transcript
    told.title("Under load")
    token = node.get("secret", "semievol-gateway", f"--namespace={NAMESPACE}")["data"]["token"]
    load = Load(node)
    load.start(base64.b64decode(token).decode())
    load.at_least(50, 300)
    told.say(
        f"{WORKERS} workers ask through the Service `gateway`, from a pod of another namespace, each once in "
        f"{PACE_S:g} s (or as soon as it has its answer, where that takes longer), and try nothing again."
    )

    told.say("The gateways are rolled:")
    told.shell("kubectl rollout restart deployment/gateway && kubectl rollout status deployment/gateway", timeout_s=600)
    told.say(f"By now {load.asked()[0]} requests were answered, {load.asked()[1]} failed.")

    told.say("A second replica of vLLM joins:")
    scale = "kubectl scale statefulset/vllm --replicas=2 && kubectl rollout status statefulset/vllm"
    told.shell(scale, timeout_s=READY_S)
    attested_s = _attested_s(story, "vllm-1")
    told.say(f"It was attested for what serves {attested_s:.1f} s after it was healthy.")
    told.say(f"By now {load.asked()[0]} requests were answered, {load.asked()[1]} failed.")

    told.say("The leader's pod is deleted:")
    leader = story.leader()
    told.shell(f"kubectl delete pod {leader}", timeout_s=180)
    successor = waited("another leader", lambda: _other(story, leader), 180.0, 1.0)
    told.say(f"`{successor}` leads now.")
    told.shell("kubectl rollout status deployment/control", timeout_s=600)

    told.say("The node's kubelet is restarted:")
    before = _heartbeat(story)
    node.restart("kubelet")
    waited("the kubelet's word", lambda: _heartbeat(story) > before, 180.0)
    told.shell("kubectl get nodes")

    load.at_least(REQUESTS, REQUESTS_S)
    counts, failures = load.stop()
    counted = "\n".join(f"{name}: {count}" for name, count in counts.items())
    told.say(f"What the client counted:\n\n```\n{counted}\n```")
    assert failures == []
    assert counts.get("failed", 0) == 0
    assert counts["asked"] >= REQUESTS
    replicas = [name for name in counts if name.startswith("replica ")]
    assert len(replicas) == 2, "both replicas answer"
    assert not {"adapter -", "adapter base"} & counts.keys()
    assert attested_s <= ATTESTED_S


def test_a_round_on_its_own_traffic_ends(story: Story) -> None:
    told = story.transcript
    told.title("A round on its own traffic")
    round_ = story.round_ended(1, ROUND_S)
    told.shell("kubectl exec deploy/control -- semievol rounds list")
    assert round_["state"] in ("settled", "inconclusive", "rejected"), round_
    restarts = {
        f"{pod['metadata']['name']} {status['name']}": status["restartCount"]
        for pod in story.node.get("pods", f"--namespace={NAMESPACE}")["items"]
        for status in pod["status"].get("containerStatuses", ())
    }
    assert {name: count for name, count in restarts.items() if count} == {}
    told.title("Its end")
    # Namespaces are looked at again after half of the longest grace of their pods.
    told.shell(f"kubectl delete namespace {NAMESPACE} --timeout=300s", timeout_s=330)
    story.finished = True


def _labelled(story: Story) -> int:
    return int(story.semievol("status")["pseudo_labels"]["total"])


def _other(story: Story, former: str) -> str | None:
    leader = story.leader()
    return leader if leader and leader != former else None


def _heartbeat(story: Story) -> str:
    return str(story.node.get("lease", "semievol-test", "--namespace=kube-node-lease")["spec"]["renewTime"])


def _attested_s(story: Story, pod: str) -> float:
    """From the moment that vLLM in a pod was healthy until a leader had attested it for what serves, seconds."""
    node = story.node
    address = node.get("pod", pod, f"--namespace={NAMESPACE}")["status"]["podIP"]
    serving = story.semievol("status")["serving"]
    line = re.compile(
        rf"^(\S+) .*replica \S*{re.escape(address)}\S* is attested for {re.escape(serving)}", re.MULTILINE
    )

    def attested() -> datetime | None:
        said = node.kubectl("logs", f"--namespace={NAMESPACE}", story.leader(), "--timestamps", "--tail=2000")
        return _time(found[1]) if (found := line.search(said)) else None

    when = waited("its attestation", attested, 120.0)
    said = node.kubectl("logs", f"--namespace={NAMESPACE}", pod, "--container=vllm", "--timestamps")
    healthy = re.search(r"^(\S+) .*Application startup complete", said, re.MULTILINE)
    assert healthy, said[-2000:]
    return (when - _time(healthy[1])).total_seconds()


def _time(text: str) -> datetime:
    """Of Kubernetes: nanoseconds, UTC."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", text))

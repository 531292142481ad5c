"""What the tests of the story ask the cluster, and say in its transcript."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.cluster import ROOT
from tests.cluster.cluster import NAMESPACE
from tests.cluster.commands import waited
from tests.cluster.machine import STATE
from tests.cluster.node import Node
from tests.cluster.transcript import Transcript, blocks

DOCUMENT = ROOT / "docs" / "cluster.md"
MARK = "<!-- transcript: written by make cluster-test -->\n"
README = ROOT / "k8s" / "README.md"


class Story:
    """The node, the transcript, and the commands of k8s/README.md."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.transcript = Transcript(STATE, node.admin)
        self.finished = False
        """Set by the last test."""

    def readme(self, number: int) -> str:
        """The commands of a numbered step of `Try it`, as they stand there."""
        section = README.read_text("utf-8").partition("\n## Try it\n")[2].partition("\n## ")[0]
        step = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[number]
        return "\n".join(blocks(step))

    def semievol(self, *words: str) -> Any:
        """What a command of the daemon says, asked in a pod of control."""
        said = self.node.kubectl("exec", f"--namespace={NAMESPACE}", "deploy/control", "--", "semievol", *words,
                                 "--output", "json", timeout_s=90)  # fmt: skip
        return json.loads(said)

    def pods(self, component: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """Those that are not being stopped."""
        words = ("pods", f"--namespace={namespace}", f"--selector=app.kubernetes.io/component={component}")
        return [pod for pod in self.node.get(*words)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str:
        """The pod that holds the lease; empty: nobody does."""
        lease = self.semievol("status")["lease"]
        return str(lease["holder"]).partition("/")[0] if lease and lease["held"] else ""

    def round(self, number: int) -> dict[str, Any] | None:
        found = [each for each in self.semievol("rounds", "list") if each["number"] == number]
        return dict(found[0]) if found else None

    def round_ended(self, number: int, timeout_s: float) -> dict[str, Any]:
        """The round, when it has ended one way or another."""
        ended = {"settled", "rejected", "inconclusive", "failed", "rolled_back", "cancelled"}

        def look() -> dict[str, Any] | None:
            self.node.alive()
            found = self.round(number)
            return found if found and found["state"] in ended else None

        return waited(f"the end of round {number}", look, timeout_s, 3.0)

    def write(self) -> None:
        """Put the transcript into docs/cluster.md, below what is written by hand."""
        text = DOCUMENT.read_text("utf-8").partition(MARK)[0]
        DOCUMENT.write_text(f"{text}{MARK}\n{self.transcript.text()}", "utf-8")

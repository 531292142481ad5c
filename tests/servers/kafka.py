"""Apache Kafka as one KRaft node, from its Maven artifacts, on this machine's Java.

Four listeners: PLAINTEXT (a superuser, for most tests), SASL_PLAINTEXT (PLAIN and SCRAM, two users), SSL, and the
controller's. Ports and data are fixed per `KafkaBroker`, so that a stopped or killed broker comes back as itself.
`python -m tests.servers.kafka` fetches the jars into .cache, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.servers import free_port, unavailable

VERSION = "4.1.0"
JARS = Path(__file__).parents[2] / ".cache" / "kafka" / VERSION
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
PASSWORD = "password-of-the-tests"
ADMIN, LIMITED = "semievol", "limited"
"""SASL users: the first may do everything, the second nothing."""

START_S = 100.0
STOP_S = 20.0
READY = "Kafka Server started"

POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>semievol.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def missing() -> str | None:
    """What this machine lacks to run a broker; None: nothing."""
    if shutil.which("java") is None or shutil.which("keytool") is None:
        return "Kafka needs Java 17 (Debian: apt install openjdk-17-jdk-headless)"
    if not JARS.exists() and shutil.which("mvn") is None:
        return "Kafka's jars are fetched with Maven (Debian: apt install maven)"
    return None


def fetch() -> None:
    """Bring the jars into .cache, once; a fetch that was cut off leaves nothing.

    Raises:
        RuntimeError: Maven could not fetch them.
    """
    if JARS.exists():
        return
    unfinished = JARS.with_name(f"{VERSION}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "pom.xml").write_text(POM)
    command = ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={unfinished / 'lib'}"]
    done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        shutil.rmtree(unfinished)
        raise RuntimeError(f"Maven could not fetch Kafka {VERSION}: {(done.stdout + done.stderr)[-1000:]}")
    try:
        unfinished.rename(JARS)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)


class KafkaBroker:
    """One broker with a directory of its own. `start` skips the test where a broker cannot be had."""

    def __init__(self, directory: Path, **properties: object) -> None:
        self.directory = directory
        self._properties = properties
        self._ports = {name: free_port() for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "CONTROLLER")}
        self._process: subprocess.Popen[bytes] | None = None

    def address(self, listener: str = "PLAINTEXT") -> str:
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def bootstrap(self) -> str:
        return self.address()

    @property
    def certificate(self) -> Path:
        """PEM of the SSL listener's certificate, which is its own authority."""
        return self.directory / "server.pem"

    def start(self) -> KafkaBroker:
        """Start, for the first time or again, and wait until the broker answers."""
        if (lacking := missing()) is not None:
            unavailable(lacking)
        try:
            fetch()
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            unavailable(str(error))
        if not (self.directory / "data").exists():
            self._format()
        said = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_java("-Xmx384m"), "kafka.Kafka", str(self.directory / "server.properties")],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        deadline = time.monotonic() + START_S
        while READY not in self._log.read_text(errors="replace")[said:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"Kafka did not start within {START_S:.0f} s:\n{self.log()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """SIGTERM and wait; SIGKILL when it takes too long."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, no client is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self, lines: int = 40) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.directory / "broker.log"

    def _format(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        (self.directory / "server.properties").write_text(self._server_properties())
        properties = ["-c", str(self.directory / "server.properties")]
        scram = [f"--add-scram=SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in (ADMIN, LIMITED)]
        done = subprocess.run(
            [
                *_java("-Xmx256m"),
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                CLUSTER,
                *scram,
                *properties,
            ],
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _make_certificate(self) -> None:
        store = self.directory / "server.p12"
        keytool = [
            "keytool",
            "-keystore",
            str(store),
            "-storetype",
            "PKCS12",
            "-storepass",
            PASSWORD,
            "-alias",
            "server",
        ]
        generate = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost"]
        for command in ([*generate, "-validity", "30"], ["-exportcert", "-rfc", "-file", str(self.certificate)]):
            subprocess.run([*keytool, *command], check=True, capture_output=True, timeout=START_S)

    def _server_properties(self) -> str:
        users = " ".join(f'user_{user}="{PASSWORD}"' for user in (ADMIN, LIMITED))
        scram, plain = "org.apache.kafka.common.security.scram.Scram", "org.apache.kafka.common.security.plain.Plain"
        properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": self.address("CONTROLLER"),
            "listeners": ",".join(f"{name}://{self.address(name)}" for name in self._ports),
            "advertised.listeners": ",".join(f"{n}://{self.address(n)}" for n in self._ports if n != "CONTROLLER"),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT"
            ),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{plain}LoginModule required {users};",
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": f"{scram}LoginModule required;",
            "ssl.keystore.location": self.directory / "server.p12",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": PASSWORD,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
            "log.dirs": self.directory / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            **self._properties,
        }
        return "".join(f"{key}={value}\n" for key, value in properties.items())


def java_source(file: str, *arguments: str) -> list[str]:
    """The command that runs a source file of this folder with the clients of the broker's release."""
    return [*_java("-Xmx256m"), str(Path(__file__).with_name(file)), *arguments]


def _java(memory: str) -> list[str]:
    """Serial collector and quick compiler: a test's broker should start soon and leave the cores to the test."""
    return ["java", memory, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS / 'lib'}/*"]


def main() -> None:
    """Fetch, in two attempts: a network may fail once.

    Raises:
        SystemExit: what is missing, in one line.
    """
    if (lacking := missing()) is not None:
        raise SystemExit(lacking)
    for last in (False, True):
        try:
            return fetch()
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            if last:
                raise SystemExit(" ".join(str(error).split())) from error


if __name__ == "__main__":
    main()

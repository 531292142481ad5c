"""One authority for a run, and what it signs: who is who to the API server, as it reads it from certificates."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.commands import run

DAYS = "2"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", DAYS)


class Authority:
    """Signs certificates and writes kubeconfigs into one directory."""

    def __init__(self, directory: Path, server: str) -> None:
        """Make the authority; `server` is the address of the API server."""
        self.directory, self._server = directory, server
        self.certificate, self._key = directory / "ca.crt", directory / "ca.key"
        run("openssl", "req", "-x509", *EC, "-subj", "/CN=cluster-test", "-keyout", self._key, "-out", self.certificate,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
        run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.tokens_key)
        run("openssl", "pkey", "-in", self.tokens_key, "-pubout", "-out", self.tokens_public)

    @property
    def tokens_key(self) -> Path:
        """Signs the tokens of ServiceAccounts."""
        return self.directory / "tokens.key"

    @property
    def tokens_public(self) -> Path:
        return self.directory / "tokens.pub"

    def sign(self, name: str, user: str, *, group: str | None = None, names: str | None = None) -> tuple[Path, Path]:
        """(certificate, key) of a user, and of a server if it has `names` (as openssl writes them)."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        uses = "clientAuth,serverAuth" if names else "clientAuth"
        run("openssl", "req", "-x509", *EC, "-CA", self.certificate, "-CAkey", self._key, "-keyout", key,
            "-out", certificate, "-subj", (f"/O={group}" if group else "") + f"/CN={user}",
            "-addext", f"extendedKeyUsage={uses}", "-addext", "basicConstraints=critical,CA:FALSE",
            *(("-addext", f"subjectAltName={names}") if names else ()))  # fmt: skip
        return certificate, key

    def kubeconfig(self, name: str, user: str, group: str | None = None) -> Path:
        """A kubeconfig that speaks as that user; JSON is YAML."""
        certificate, key = self.sign(name, user, group=group)
        path = self.directory / f"{name}.kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {"server": self._server, "certificate-authority": str(self.certificate)},
                        }
                    ],
                    "users": [{"name": name, "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
                    "current-context": "test",
                },
                indent=1,
            ),
            "utf-8",
        )
        path.chmod(0o600)
        return path

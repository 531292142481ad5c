"""What is asked of Kubernetes' API: Jobs, their pods, and the end of their logs. Blocking, a bounded time each.

Owns the official client's connection and credentials, and the translation of its errors. Owns not what is asked for:
objects are JSON as the API has them, so that a field that is newer than the client is neither dropped nor refused.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3.exceptions
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from semievol.errors import ConfigError, TransientError
from semievol.plain_lines import one_line
from semievold.config.training import LauncherConfig

Manifest = dict[str, Any]

CALL_S = 10.0
LOG_LINES = 200
LOG_BYTES = 64 * 1024
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

RIGHTS = (
    *(("batch", "jobs", verb) for verb in ("create", "get", "list", "delete")),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
)
"""What the launcher does: group, resource, verb. The Role in k8s/components/training-jobs is this."""


class Cluster:
    """One namespace of a cluster, seen by one set of credentials. Its calls may come from several threads.

    Raises from every call:
        ConfigError: the API refuses it for what it is: a missing right, an object that is not valid.
        TransientError: the API does not answer, or not now.
    """

    def __init__(self, connection: Any, namespace: str) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # credentials are renewed in place
        self.namespace = namespace

    @classmethod
    def open(cls, settings: LauncherConfig) -> Cluster:
        """Take the credentials of the pod's service account, or of the kubeconfig. Asks nothing yet.

        Raises:
            ConfigError: there are none.
        """
        found = client.Configuration()
        found.retries = 0  # whoever asks tries again, and a stop waits for a call to end
        try:
            if settings.kubeconfig is None:
                config.load_incluster_config(client_configuration=found)
                namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            else:
                file = str(settings.kubeconfig)
                config.load_kube_config(config_file=file, client_configuration=found, persist_config=False)
                _, active = config.list_kube_config_contexts(config_file=file)
                namespace = active["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            key = "training.launcher.kubeconfig"
            advice = (
                f"{key}: this is no pod with a service account's token; set {key}, or automountServiceAccountToken"
                if settings.kubeconfig is None
                else f"{key}: {settings.kubeconfig} cannot be used"
            )
            raise ConfigError(f"{advice} ({one_line(str(error))})") from error
        return cls(client.ApiClient(found), settings.namespace or namespace)

    def close(self) -> None:
        self._connection.close()

    def create_job(self, manifest: Manifest) -> bool:
        """Create a Job. Fields that Kubernetes does not know are an error. False: one of that name is there."""
        query = {"fieldValidation": "Strict", "fieldManager": "semievol"}
        return self._asked("POST", _JOBS, query=query, body=manifest, but=409) is not None

    def job(self, name: str) -> Manifest | None:
        """None: there is none of that name."""
        return self._asked("GET", _JOBS + "/{name}", {"name": name}, but=404)

    def jobs(self, labels: Mapping[str, str]) -> list[Manifest]:
        return self._listed(_JOBS, {"labelSelector": _selector(labels)})

    def delete_job(self, job: Manifest) -> None:
        """Delete this very Job; its name is free only when its pods have gone."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": job["metadata"]["uid"]},
        }
        # 409: another one has its name by now.
        self._asked("DELETE", _JOBS + "/{name}", {"name": job["metadata"]["name"]}, body=body, but=(404, 409))

    def pods(self, job_name: str) -> list[Manifest]:
        """A Job's pods, also those that have ended."""
        return self._listed(_PODS, {"labelSelector": _selector({"batch.kubernetes.io/job-name": job_name})})

    def own_pod(self) -> Manifest | None:
        """The pod that this process runs in; None: in none of this namespace, by the name of the host."""
        name = os.environ.get("HOSTNAME", "")
        found = self._listed(_PODS, {"fieldSelector": f"metadata.name={name}"}) if name else []
        return found[0] if found else None

    def log_of(self, pod: str, container: str) -> str:
        """The end of a container's log."""
        query = {"container": container, "tailLines": str(LOG_LINES), "limitBytes": str(LOG_BYTES)}
        return self._said("GET", _PODS + "/{name}/log", {"name": pod}, query).decode("utf-8", "replace")

    def missing_rights(self) -> list[str]:
        """What of RIGHTS these credentials lack, as `verb resource`."""
        missing = []
        for group, resource, verb in RIGHTS:
            kind, _, sub = resource.partition("/")
            wanted = {"namespace": self.namespace, "group": group, "resource": kind, "subresource": sub, "verb": verb}
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": wanted},
            }
            answer = self._asked("POST", _REVIEWS, body=review) or {}
            if not (answer.get("status") or {}).get("allowed"):
                missing.append(f"{verb} {resource}")
        return missing

    def _listed(self, path: str, query: Mapping[str, str]) -> list[Manifest]:
        answer = self._asked("GET", path, query=query) or {}
        return list(answer.get("items") or ())

    def _asked(
        self,
        method: str,
        path: str,
        names: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        but: int | tuple[int, ...] = (),
    ) -> Manifest | None:
        """The object of an answer; None: its status is one of `but`."""
        content = self._said(method, path, names or {}, query or {}, body, (but,) if isinstance(but, int) else but)
        if not content:
            return None
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise TransientError(f"Kubernetes: {method} {path}: no JSON in the answer ({error})") from error
        if not isinstance(answer, dict):
            raise TransientError(f"Kubernetes: {method} {path}: no object in the answer")
        return answer

    def _said(
        self,
        method: str,
        path: str,
        names: Mapping[str, str],
        query: Mapping[str, str],
        body: Manifest | None = None,
        but: tuple[int, ...] = (),
    ) -> bytes:
        try:
            with self._lock:
                asked = self._connection.param_serialize(
                    method,
                    path,
                    path_params={"namespace": self.namespace, **names},
                    query_params=list(query.items()),
                    header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                    body=body,
                    auth_settings=["BearerToken"],
                )
            answer = self._connection.call_api(*asked, _request_timeout=(CALL_S, CALL_S))
            content: bytes = answer.read() or b""
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"Kubernetes does not answer: {one_line(str(error))[:300]}") from error
        if answer.status in but:
            return b""
        if answer.status >= 400:
            raise _problem(answer.status, content, f"{method} {path.format(namespace=self.namespace, name='NAME')}")
        return content


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _problem(status: int, content: bytes, asked: str) -> ConfigError | TransientError:
    """What an answer with an error means. A right that is missing, or an object that is not valid, stays so."""
    try:
        said = json.loads(content)
        message = str(said["message"])
    except (ValueError, KeyError, TypeError):
        message = content[:200].decode("utf-8", "replace")
    text = one_line(" ".join(message.split()))[:500]
    if status == 403 and ("exceeded quota" in text or "being terminated" in text):
        return TransientError(f"Kubernetes: {text}")
    if status in (401, 403):
        # 401 too: a token that has run out is renewed within a minute, but not one that was revoked.
        kind = TransientError if status == 401 else ConfigError
        return kind(f"Kubernetes refuses {asked}: {text}; k8s/components/training-jobs has the Role that it takes")
    if status in (400, 404, 422):
        return ConfigError(f"Kubernetes refuses {asked}: {text}; see training.launcher and its template")
    return TransientError(f"Kubernetes: {asked}: status {status}: {text}")

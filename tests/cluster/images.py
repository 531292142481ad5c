"""The images of k8s/overlays/try: the daemon's two from the shipped Dockerfiles, the servers' from Debian's packages.

There is no registry here, so that a base is debootstrapped under the name that the Dockerfiles start from, and servers
are built under the names of their images (images/*.Containerfile): what they prove is what k8s/ says, not what is in
the vendors' images. Invariant: an image that containerd has under its tag is of the files as they are now; a hash of
them is kept in .cache/cluster/images.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import BIN, HERE, PLACE, ROOT
from tests.cluster.commands import run
from tests.cluster.machine import CONTAINERD
from tests.servers import kafka

DEBIAN = "http://deb.debian.org/debian"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_S = 1_800.0
LOAD_S = 900.0
CTR = ("ctr", "--address", str(CONTAINERD), "--namespace", "k8s.io")
STORE = ("--root", str(PLACE / "containers"), "--runroot", "/run/semievol-images")
RECIPES = HERE / "images"


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its name, its recipe, and the files that are copied into it by their names in the context."""

    name: str
    recipe: Path
    files: tuple[tuple[str, Path], ...] = ()


def base_name() -> str:
    """What the shipped Dockerfiles start from."""
    (found,) = set(
        re.findall(r"^FROM (\S+?)(?: AS build)?$", (ROOT / "deploy" / "Dockerfile").read_text("utf-8"), re.M)
    )
    return str(found)


def servers() -> list[Image]:
    """What runs beside the daemon, under the names that k8s/ has for it."""
    own = RECIPES
    return [
        Image("semievol.test/pause:1", own / "pause.Containerfile"),
        Image("semievol.test/coredns:1", own / "coredns.Containerfile", (("coredns", BIN / "coredns"),)),
        Image("haproxy:3.2.4", own / "haproxy.Containerfile"),
        Image(
            "postgres:17.6-bookworm",
            own / "postgres.Containerfile",
            (("postgres-entrypoint", own / "postgres-entrypoint"),),
        ),
        Image(
            "apache/kafka:4.1.0",
            own / "kafka.Containerfile",
            (
                ("kafka", kafka.JARS / "lib"),
                ("kafka-entrypoint", own / "kafka-entrypoint"),
                ("log4j2.yaml", own / "log4j2.yaml"),
            ),
        ),
        Image("vllm/vllm-openai-cpu:v0.32.0", own / "vllm.Containerfile"),
    ]


DAEMON_FILES = ("pyproject.toml", "LICENSE", "README.md", "semievol", "daemon", "deploy")


def daemons() -> list[Image]:
    """The two that users build themselves."""
    files = tuple((name, ROOT / name) for name in DAEMON_FILES)
    return [
        Image("semievol-daemon:0.1.0", ROOT / "deploy" / "Dockerfile", files),
        # PyPI's torch, which the lock has hashes for; it runs on a CPU as well.
        Image("semievol-trainer-cpu:0.1.0", ROOT / "deploy" / "trainer.Dockerfile", files),
    ]


def build_base() -> None:
    """Debian with Python, under the name of the Dockerfiles' base."""
    if full_name(base_name()) in built():
        return
    rootfs, context = PLACE / "rootfs", PLACE / "base"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    if not (rootfs / "usr/bin/python3").exists() or (rootfs / "debootstrap").exists():
        shutil.rmtree(rootfs, ignore_errors=True)
        include = "--include=python3,python3-venv,python3-pip,ca-certificates"
        run("debootstrap", "--variant=minbase", include, "bookworm", rootfs, DEBIAN, timeout_s=BUILD_S)
    excluded = ("--exclude=./dev/*", "--exclude=./var/cache/apt/archives/*.deb")
    run("tar", "--one-file-system", *excluded, "-C", rootfs, "-cf", context / "rootfs.tar", ".", timeout_s=300)
    shutil.copy(CERTIFICATES, context / "ca-certificates.crt")
    build(base_name(), RECIPES / "base.Containerfile", context)
    shutil.rmtree(context)
    shutil.rmtree(rootfs)


def build(name: str, recipe: Path, context: Path) -> None:
    options = ("--isolation", "chroot", "--network", "host", "--pull=never", "--layers", "--format", "docker")
    run("buildah", *STORE, "build", *options, "--tag", full_name(name), "--file", recipe, context,
        timeout_s=BUILD_S)  # fmt: skip


def full_name(name: str) -> str:
    """As containerd and buildah keep it."""
    first = name.split("/")[0]
    if "/" not in name:
        return f"docker.io/library/{name}"
    return name if "." in first else f"docker.io/{name}"


def built() -> set[str]:
    return set(run("buildah", *STORE, "images", "--noheading", "--format", "{{.Name}}:{{.Tag}}", check=False).split())


def number_of(name: str) -> str:
    """The id of what has that name now; empty: nothing."""
    return run("buildah", *STORE, "images", "--quiet", "--no-trunc", name, check=False).strip()


def prepare(image: Image) -> None:
    """Build one image from its files as they are now."""
    context = PLACE / "context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    for name, source in image.files:
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".env")
            shutil.copytree(source, context / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, context / name)
    try:
        build(image.name, image.recipe, context)
    finally:
        shutil.rmtree(context)


def content(image: Image) -> str:
    """A hash of the recipe and of what it copies."""
    digest = hashlib.sha256(image.recipe.read_bytes())
    digest.update((RECIPES / "base.Containerfile").read_bytes())
    for name, source in image.files:
        digest.update(name.encode())
        if source.is_dir():
            for file in sorted(
                each for each in source.rglob("*") if each.is_file() and "__pycache__" not in each.parts
            ):
                digest.update(str(file.relative_to(source)).encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def provide(say: Callable[[str], None]) -> None:
    """Build what has changed, and hand it to containerd, which has to run."""
    build_base()
    for image in [*servers(), *daemons()]:
        name, wanted = full_name(image.name), content(image)
        noted = PLACE / "images" / image.name.replace("/", "_")
        if not noted.exists() or noted.read_text("ascii") != wanted or name not in built():
            say(f"building {image.name}")
            noted.unlink(missing_ok=True)
            before = number_of(name)
            prepare(image)
            # The one before is gigabytes of a trainer, here and there. Its layers that a build may use again stay.
            run(*CTR, "images", "remove", "--sync", name, timeout_s=LOAD_S, check=False)
            if before and before != number_of(name):
                run("buildah", *STORE, "rmi", before, timeout_s=LOAD_S, check=False)
            noted.parent.mkdir(exist_ok=True)
            noted.write_text(wanted, "ascii")
        if name not in run(*CTR, "images", "list", "--quiet").split():
            say(f"loading {image.name}")
            load(name)


def load(name: str) -> None:
    """From buildah's store into containerd's, with no archive in between: some images are a few GB."""
    pushed = ["buildah", *STORE, "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
    taken = [*CTR, "images", "import", "-"]
    script = f"{shlex.join(pushed)} | {shlex.join(taken)}"
    run("bash", "-o", "pipefail", "-c", script, timeout_s=LOAD_S)

"""Kubernetes objects as kubectl renders them, and what to look for in them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from helpers.paths import DEPLOY

WAYS = ["direct", "proxied", "proxied with basic-auth"]


@functools.cache
def rendered(way: str, folder: Path) -> str:
    copied = shutil.copytree(DEPLOY / "mlflow", folder / way.replace(" ", "-"))
    overlay = copied / "overlays" / way.split()[0]
    if "basic-auth" in way:
        with open(overlay / "kustomization.yaml", "a") as file:  # as deploy/README.md says
            file.write("components:\n  - ../../components/basic-auth\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def one(objects, kind, name):
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pod_of(object_):
    return object_["spec"]["template"]["spec"]


def pods(objects):
    return {f"{o['kind']}/{o['metadata']['name']}": pod_of(o) for o in objects if "template" in o.get("spec", {})}


def containers_of(pod):
    return [c for kind in ("initContainers", "containers", "ephemeralContainers") for c in pod.get(kind, [])]


def init_of(objects, name):
    """A container that runs before the server."""
    (found,) = [c for c in pod_of(one(objects, "Deployment", "mlflow-server"))["initContainers"] if c["name"] == name]
    return found


def server_of(objects):
    return pod_of(one(objects, "Deployment", "mlflow-server"))["containers"][0]


def environment_of(container):
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}


def option(container, name):
    """The value of a server's option."""
    values = [a.partition("=")[2] for a in container["args"] if a.partition("=")[0] == name]
    assert len(values) == 1, f"{name} stands {len(values)} times"
    return values[0]


def mappings(node):
    """Every mapping in a document, at any depth."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from mappings(child)

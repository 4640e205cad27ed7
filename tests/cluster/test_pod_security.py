"""Pod Security, level "restricted", and more: each pod and container is allowed what is listed here and nothing else."""

import pytest
from support.manifests import WAYS, containers_of, pods

CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
NUMBERS = {"runAsUser", "runAsGroup", "fsGroup"}
VOLUMES = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
PROBES = {"startupProbe", "readinessProbe", "livenessProbe"}


@pytest.mark.parametrize("way", WAYS)
def test_every_pod_is_fit_for_restricted_and_holds_to_more(render, way):
    found = pods(render(way))
    assert len(found) == 2
    for name, pod in found.items():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        context = pod["securityContext"]
        assert {key: context[key] for key in context.keys() - NUMBERS - {"fsGroupChangePolicy"}} == POD
        assert all(context[key] > 0 for key in NUMBERS & context.keys())
        assert set().union(*pod.get("volumes", [])) <= VOLUMES
        assert pod["containers"][0].keys() >= PROBES, name
        for container in containers_of(pod):
            assert container["securityContext"] == CONTAINER, container["name"]
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not any("hostPort" in port for port in container.get("ports", []))
            acts = [act for probe in PROBES for act in container.get(probe, {}).values() if isinstance(act, dict)]
            assert not any("host" in act for act in acts)

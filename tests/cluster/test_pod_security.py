"""Pod Security, level "restricted": every pod of the manifests meets it, and each breach is seen."""

import pytest
from support.manifests import WAYS, containers_of, one, pod_of, pods

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}


def breaches(pod):
    """What the standard's list of controls says against a pod, baseline first, then restricted."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    whole = pod.get("securityContext", {})
    found += [f"sysctl {s['name']}" for s in whole.get("sysctls", []) if s["name"] not in SYSCTLS]
    for volume in pod.get("volumes", []):
        found += [f"volume of type {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    contexts = [("pod", whole)] + [(c["name"], c.get("securityContext", {})) for c in containers_of(pod)]
    for name, context in contexts:
        selinux = context.get("seLinuxOptions", {})
        checks = {
            "a Windows host process": context.get("windowsOptions", {}).get("hostProcess"),
            "SELinux type": selinux.get("type", "") not in SELINUX,
            "SELinux user or role": selinux.get("user") or selinux.get("role"),
            "AppArmor unconfined": context.get("appArmorProfile", {}).get("type") == "Unconfined",
            "seccomp unconfined": context.get("seccompProfile", {}).get("type") == "Unconfined",
            "runAsNonRoot false": context.get("runAsNonRoot") is False,
            "user 0": context.get("runAsUser") == 0,
        }
        found += [f"{name}: {what}" for what, bad in checks.items() if bad]
    for container in containers_of(pod):
        context = container.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        effective = whole | context
        hooks = [container.get(p, {}) for p in ("livenessProbe", "readinessProbe", "startupProbe")]
        hooks += container.get("lifecycle", {}).values()
        checks = {
            "privileged": context.get("privileged"),
            "privilege escalation": context.get("allowPrivilegeEscalation") is not False,
            "capabilities kept": "ALL" not in capabilities.get("drop", []),
            "capabilities added": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "a port of the host": any(p.get("hostPort") for p in container.get("ports", [])),
            "a probe of another host": any(h.get(k, {}).get("host") for h in hooks for k in ("httpGet", "tcpSocket")),
            "procMount": context.get("procMount", "Default") != "Default",
            "may be root": effective.get("runAsNonRoot") is not True,
            "no seccomp": effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
        }
        found += [f"{container['name']}: {what}" for what, bad in checks.items() if bad]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_pod_is_fit_for_restricted(render, way):
    found = pods(render(way))
    assert len(found) == 2
    assert {name: breaches(pod) for name, pod in found.items()} == dict.fromkeys(found, [])


@pytest.mark.parametrize("way", WAYS)
def test_pods_hold_to_more_than_the_standard_asks(render, way):
    for pod in pods(render(way)).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in containers_of(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
    for name, pod in pods(render(way)).items():
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= pod["containers"][0].keys(), name


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod, c: pod.update(hostNetwork=True),
        lambda pod, c: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        lambda pod, c: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
        lambda pod, c: pod["securityContext"].pop("seccompProfile"),
        lambda pod, c: pod["securityContext"].pop("runAsNonRoot"),
        lambda pod, c: pod["securityContext"].update(runAsUser=0),
        lambda pod, c: pod["securityContext"].update(seLinuxOptions={"type": "spc_t"}),
        lambda pod, c: c.pop("securityContext"),
        lambda pod, c: c["securityContext"].update(privileged=True),
        lambda pod, c: c["securityContext"].update(runAsNonRoot=False),
        lambda pod, c: c["securityContext"].update(allowPrivilegeEscalation=True),
        lambda pod, c: c["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        lambda pod, c: c["securityContext"]["capabilities"].update(drop=["NET_RAW"]),
        lambda pod, c: c["securityContext"].update(procMount="Unmasked"),
        lambda pod, c: c["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        lambda pod, c: c["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
        lambda pod, c: c["ports"][0].update(hostPort=5000),
        lambda pod, c: c["livenessProbe"]["httpGet"].update(host="10.0.0.1"),
        lambda pod, c: pod.update(initContainers=[{"name": "x", "image": "x:1.0"}]),
    ],
)
def test_the_check_of_restricted_sees_each_breach(render, spoil):
    pod = pod_of(one(render("direct"), "Deployment", "mlflow-server"))
    assert breaches(pod) == []
    spoil(pod, pod["containers"][0])
    assert breaches(pod)

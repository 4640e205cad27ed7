"""What a cluster is given: manifests, PodDefaults, the image and its workflow, and the migration page."""

import copy
import functools
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import kubernetes_validate
import psutil
import pytest
import requests
import yaml

from helpers import stack
from helpers.pipelines import mlflow_pipeline

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
WAYS = ["direct", "proxied", "proxied with basic-auth"]
OLDEST = "1.25"  # the lowest Kubernetes that deploy/README.md promises


# --- the manifests as kubectl renders them ---------------------------------------------------------


@functools.cache
def _render(way: str, folder: Path) -> str:
    copied = shutil.copytree(DEPLOY / "mlflow", folder / way.replace(" ", "-"))
    overlay = copied / "overlays" / way.split()[0]
    if "basic-auth" in way:
        with open(overlay / "kustomization.yaml", "a") as file:  # as deploy/README.md says
            file.write("components:\n  - ../../components/basic-auth\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """A function from the name of a way to its objects, each call with a fresh copy."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, and it is what renders the manifests: install it to run this test")
    folder = tmp_path_factory.mktemp("kustomize")
    return lambda way: list(yaml.safe_load_all(_render(way, folder)))


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


@pytest.mark.parametrize("way", WAYS)
def test_an_overlay_builds_all_that_the_server_needs(render, way):
    names = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in render(way)}
    assert {n for n in names if n[0] != "ConfigMap"} == {
        ("Namespace", "", "mlflow-system"),
        ("Service", "mlflow-system", "mlflow-server-service"),
        ("Service", "mlflow-system", "mlflow-postgres"),
        ("Deployment", "mlflow-system", "mlflow-server"),
        ("StatefulSet", "mlflow-system", "mlflow-postgres"),
        ("NetworkPolicy", "mlflow-system", "mlflow-server"),
        ("NetworkPolicy", "mlflow-system", "mlflow-postgres"),
        ("NetworkPolicy", "kubeflow", "seaweedfs-from-mlflow"),
    }
    enforced = one(render(way), "Namespace", "mlflow-system")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("way", WAYS)
def test_every_object_fits_the_schemas_of_kubernetes(render, way, version):
    for object_ in render(way):
        kubernetes_validate.validate(object_, version, strict=True)


def test_the_schemas_refuse_a_field_that_does_not_exist(render):
    deployment = one(render("direct"), "Deployment", "mlflow-server")
    pod_of(deployment)["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, OLDEST, strict=True)


def test_names_and_ports_meet(render):
    objects = render("proxied")
    deployment, database = one(objects, "Deployment", "mlflow-server"), one(objects, "StatefulSet", "mlflow-postgres")
    behind = {"mlflow-server-service": deployment, "mlflow-postgres": database}
    for name, workload in behind.items():
        service = one(objects, "Service", name)["spec"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (port,), (named,) = service["ports"], pod_of(workload)["containers"][0]["ports"]
        assert (port["targetPort"], port["port"]) == (named["name"], named["containerPort"])
        policy = one(objects, "NetworkPolicy", workload["metadata"]["name"])["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": named["containerPort"]}]]
    server, postgres = server_of(objects), environment_of(pod_of(database)["containers"][0])
    assert option(server, "--port") == str(server["ports"][0]["containerPort"])
    address = urlsplit(environment_of(server)["MLFLOW_BACKEND_STORE_URI"])
    assert (address.hostname, address.port) == ("mlflow-postgres", 5432)
    assert (address.username, address.path) == (postgres["POSTGRES_USER"], f"/{postgres['POSTGRES_DB']}")
    assert environment_of(server)["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]


def test_only_whom_we_mean_comes_in(render):
    def sources(name):
        rules = one(render("proxied"), "NetworkPolicy", name)["spec"]["ingress"]
        assert all(rule["from"] and rule["ports"] for rule in rules), "a rule without from or ports admits everybody"
        return [peer for rule in rules for peer in rule["from"]]

    mlflow = {"matchLabels": {"app.kubernetes.io/name": "mlflow-server"}}
    # The labels are those of kubeflow/manifests (profiles) and kubeflow/pipelines (the store and its port).
    assert sources("mlflow-server") == [
        {"namespaceSelector": {"matchLabels": {"app.kubernetes.io/part-of": "kubeflow-profile"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}},
    ]
    assert sources("mlflow-postgres") == [{"podSelector": mlflow}]
    assert sources("seaweedfs-from-mlflow") == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mlflow-system"}}, "podSelector": mlflow}
    ]
    store = one(render("proxied"), "NetworkPolicy", "seaweedfs-from-mlflow")["spec"]
    assert store["podSelector"] == {"matchLabels": {"app": "seaweedfs"}}
    assert store["ingress"][0]["ports"] == [{"port": 8333}]


@pytest.mark.parametrize("way", WAYS)
def test_images_are_pinned_and_mlflow_is_the_version_of_the_lock(render, way):
    images = {c["image"] for pod in pods(render(way)).values() for c in containers_of(pod)}
    assert {i for i in images if "mlflow" in i} == {
        f"ghcr.io/mlflow/mlflow:v{importlib.metadata.version('mlflow')}-full"
    }
    assert all(re.fullmatch(r"\S+:v?\d+\.\d+[\w.-]*", image) for image in images), images


def test_the_database_has_a_connection_for_every_place_in_the_pools(render):
    objects = render("proxied")
    server = environment_of(server_of(objects))
    pool = int(server["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"]) + int(server["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"])
    assert pool >= 30, "thirty runs that begin at once"
    flags = pod_of(one(objects, "StatefulSet", "mlflow-postgres"))["containers"][0]["args"]
    (allowed,) = [int(f.partition("=")[2]) for f in flags if f.startswith("max_connections=")]
    # A worker has one pool for runs and one for the registry; PostgreSQL keeps some for its administrator.
    assert int(option(server_of(objects), "--workers")) * 2 * pool <= allowed - 10


# --- Pod Security, level "restricted" --------------------------------------------------------------

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


# --- keys ------------------------------------------------------------------------------------------


def literal_secrets(documents):
    found = [o["metadata"]["name"] for o in documents if o.get("kind") == "Secret"]
    for entry in mappings(documents):
        name = entry.get("name")
        if not isinstance(name, str) or not re.search(r"KEY|SECRET|PASSWORD|TOKEN", name):
            continue
        if not name.endswith(("_PATH", "_FILE")) and "secretKeyRef" not in entry.get("valueFrom", {}):
            found.append(name)
    return found


def poddefaults():
    return list(yaml.safe_load_all((DEPLOY / "notebook" / "poddefault.yaml").read_text()))


@pytest.mark.parametrize("way", WAYS)
def test_no_manifest_holds_a_key(render, way):
    assert literal_secrets(render(way)) == []
    assert literal_secrets(poddefaults()) == []


def test_a_key_in_a_manifest_is_seen(render):
    objects = render("direct")
    server_of(objects)["env"].append({"name": "MLFLOW_TRACKING_TOKEN", "value": "x"})
    objects.append({"kind": "Secret", "metadata": {"name": "s"}, "data": {}})
    assert literal_secrets(objects) == ["s", "MLFLOW_TRACKING_TOKEN"]


def test_no_file_holds_a_key_or_a_password_in_an_address():
    for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "migration.md", ROOT / ".github" / "workflows" / "image.yml"]:
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|minio123", text), path
            assert not re.search(r"://[^/\s:@$]+:[^/\s@$]+@", text), path


@pytest.mark.parametrize("way", WAYS)
def test_every_secret_that_a_pod_asks_for_is_made_by_a_documented_command(render, way):
    readme = (DEPLOY / "README.md").read_text()
    made = set(re.findall(r"kubectl -n mlflow-system create secret generic (\S+)", readme))
    wanted = {entry["secretKeyRef"]["name"] for entry in mappings(render(way)) if "secretKeyRef" in entry}
    assert wanted and wanted <= made


def test_the_documented_commands_make_the_keys_that_the_pods_read(render):
    """The commands of deploy/README.md, with kubectl's dry run in the place of a cluster."""
    readme = (DEPLOY / "README.md").read_text()
    password, keys = re.findall(r"^(openssl rand [^`]*?\n.*)\n|^(kubectl -n kubeflow get[^`]*?stdin)$", readme, re.M)[
        :2
    ]
    source = "kubectl create secret generic a --from-literal=accesskey=A/k+ --from-literal=secretkey='s=t r' --dry-run=client"
    made = {}
    for command in (password[0], keys[1].replace("kubectl -n kubeflow get secret mlpipeline-minio-artifact", source)):
        done = subprocess.run(
            f"{command} --dry-run=client -o json", shell=True, capture_output=True, text=True, check=True
        )
        secret = json.loads(done.stdout)
        assert secret["metadata"]["namespace"] == "mlflow-system"
        made[secret["metadata"]["name"]] = secret["data"]
    for reference in mappings(render("proxied")):
        if "secretKeyRef" in reference:
            assert reference["secretKeyRef"]["key"] in made[reference["secretKeyRef"]["name"]]
    assert made["mlflow-s3"] == {"accesskey": "QS9rKw==", "secretkey": "cz10IHI="}
    assert len(made["mlflow-postgres"]["password"]) == 64  # base64 of 48 digits without a line's end


# --- the pipeline, the notebooks and the server agree ----------------------------------------------


def pipeline_documents():
    return list(yaml.safe_load_all((DEPLOY / "mlflow_pipeline.yaml").read_text()))


def pipeline_defaults():
    parameters = pipeline_documents()[0]["root"]["inputDefinitions"]["parameters"]
    return {name: parameter.get("defaultValue") for name, parameter in parameters.items()}


def test_the_pipeline_finds_the_server_and_the_store(render):
    defaults, objects = pipeline_defaults(), render("proxied")
    address = urlsplit(defaults["mlflow_tracking_uri"])
    service = one(objects, "Service", "mlflow-server-service")
    metadata, (port,) = service["metadata"], service["spec"]["ports"]
    assert (address.scheme, address.hostname) == ("http", f"{metadata['name']}.{metadata['namespace']}.svc")
    assert address.port == port["port"]
    server = server_of(objects)
    assert address.netloc in option(server, "--allowed-hosts").split(",")
    assert environment_of(server)["MLFLOW_S3_ENDPOINT_URL"] == defaults["mlflow_s3_endpoint_url"]
    init = pod_of(one(objects, "Deployment", "mlflow-server"))["initContainers"][0]
    shared = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert [environment_of(init)[n] for n in shared] == [environment_of(server)[n] for n in shared]
    assert option(server, "--artifacts-destination") == f"s3://{environment_of(init)['BUCKET']}"


def test_poddefaults_give_what_notebooks_and_tasks_read():
    """PodDefault is a kind of Kubeflow's own, for which Kubernetes has no schema: checked by hand."""
    fields = {
        "annotations",
        "args",
        "automountServiceAccountToken",
        "command",
        "desc",
        "env",
        "envFrom",
        "imagePullSecrets",
        "initContainers",
        "labels",
        "selector",
        "serviceAccountName",
        "sidecars",
        "tolerations",
        "volumeMounts",
        "volumes",
    }
    objects = poddefaults()
    assert [o["metadata"]["name"] for o in objects] == ["mlflow", "access-ml-pipeline", "mlflow-s3-keys"]
    for object_ in objects:
        assert (object_["apiVersion"], object_["kind"]) == ("kubeflow.org/v1alpha1", "PodDefault")
        assert set(object_) == {"apiVersion", "kind", "metadata", "spec"}
        assert "namespace" not in object_["metadata"], "it is applied to each namespace with -n"
        assert set(object_["spec"]) <= fields and object_["spec"]["desc"]
        assert object_["spec"]["selector"] == {"matchLabels": {object_["metadata"]["name"]: "true"}}
        # What is left is a pod's: the schema of a pod tells whether it is well formed.
        pod = {
            "containers": [
                {"name": "c", "env": object_["spec"]["env"], "volumeMounts": object_["spec"].get("volumeMounts", [])}
            ],
            "volumes": object_["spec"].get("volumes", []),
        }
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}
        kubernetes_validate.validate(whole, OLDEST, strict=True)
    server, kfp, keys = (environment_of(o["spec"]) for o in objects)
    defaults = pipeline_defaults()
    assert server == {"MLFLOW_TRACKING_URI": defaults["mlflow_tracking_uri"]}
    assert keys.pop("MLFLOW_S3_ENDPOINT_URL") == defaults["mlflow_s3_endpoint_url"]
    of_task = pipeline_documents()[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (of_task,) = of_task["exec-upload-sklearn-model-to-mlflow"]["secretAsEnv"]
    assert {e["envVar"]: e["secretKey"] for e in of_task["keyToEnv"]} == {
        name: reference["secretKeyRef"]["key"] for name, reference in keys.items()
    }
    assert {reference["secretKeyRef"]["name"] for reference in keys.values()} == {defaults["s3_secret_name"]}
    mount, source = objects[1]["spec"]["volumeMounts"][0], objects[1]["spec"]["volumes"][0]["projected"]["sources"][0]
    token = source["serviceAccountToken"]
    assert kfp == {"KF_PIPELINES_SA_TOKEN_PATH": f"{mount['mountPath']}/{token['path']}"}
    assert token["audience"] == "pipelines.kubeflow.org"


# --- the server's own command, run here ------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    tree = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    for member in tree:
        member.kill()
    process.wait()


def wait_for(url, process, log, seconds=120):
    for _ in range(seconds * 4):
        try:
            return requests.get(url, timeout=2)
        except requests.ConnectionError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
    raise AssertionError(f"no answer within {seconds} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def store(place):
    """A real object store, with the bucket that Kubeflow Pipelines makes; its address and keys."""
    if shutil.which("weed") is None and not (Path(sys.executable).parent / "weed").exists():
        pytest.skip("there is no SeaweedFS for this machine, and it is the store: run this test on Linux or an ARM Mac")
    stack.start()
    variables = stack.environment()
    keys = {name: variables[name] for name in ("MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    client(keys).create_bucket(Bucket="mlpipeline")
    return keys


def client(store):
    return boto3.client(
        "s3",
        endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=store["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=store["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="module", params=["direct", "proxied"])
def server(request, render, store, tmp_path_factory):
    """The rendered command with its rendered settings: only address, port and database are this machine's."""
    folder = tmp_path_factory.mktemp(request.param)
    container, port = server_of(render(request.param)), free_port()
    here = {"--host": "127.0.0.1", "--port": str(port)}
    arguments = [f"{n}={here.get(n, v)}" if v else n for n, _, v in (a.partition("=") for a in container["args"])]
    plain = {name: value for name, value in environment_of(container).items() if isinstance(value, str)}
    variables = {"PATH": os.environ["PATH"]} | plain | store
    variables |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db", "HOME": str(folder)}
    assert container["command"] == ["mlflow", "server"]
    log = folder / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *container["command"], *arguments],
            cwd=folder,
            env=variables,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, log)
        yield request.param, url
    finally:
        end(process)


def status(url, host):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    return requests.get(url + path, headers={"Host": host}, timeout=30).status_code


def test_the_server_answers_to_its_names_and_to_no_other(server):
    url, name = server[1], "mlflow-server-service"
    known = [
        f"{name}{rest}:5000"
        for rest in ("", ".mlflow-system", ".mlflow-system.svc", ".mlflow-system.svc.cluster.local")
    ]
    known += ["localhost:5000", "127.0.0.1:5000", "localhost:15000"]
    strange = [
        "evil.example",
        "evil.example:5000",
        f"{name}.mlflow-system.svc.evil.example:5000",
        "10.1.2.3:5000",
        f"{name}.other:5000",
    ]
    assert {host: status(url, host) for host in known} == dict.fromkeys(known, 200)
    assert {host: status(url, host) for host in strange} == dict.fromkeys(strange, 403)
    # A probe comes to the pod's own address.
    assert requests.get(f"{url}/health", headers={"Host": "10.1.2.3:5000"}, timeout=30).status_code == 200


def test_files_go_where_the_overlay_says_with_the_keys_that_it_says(server, store, tmp_path):
    way, url = server
    (tmp_path / "note.txt").write_text(way)
    code = (
        "import mlflow; client = mlflow.MlflowClient(); run = client.create_run(client.create_experiment('iris')).info;"
        "client.log_artifact(run.run_id, 'note.txt'); print(run.run_id, run.artifact_uri)"
    )
    bare = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    uploads = {
        keys: subprocess.run(
            [sys.executable, "-c", code.replace("iris", keys)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=bare | (store if keys == "keys" else {}),
        )
        for keys in ("keys", "no keys")
    }
    run_id, place = uploads["keys" if way == "direct" else "no keys"].stdout.split()[:2]
    if way == "direct":
        assert uploads["no keys"].returncode == 1 and "Unable to locate credentials" in uploads["no keys"].stderr
        assert place.startswith("s3://mlpipeline/private/kubeflow-user-example-com/mlflow/")
        bucket, key = "mlpipeline", place.removeprefix("s3://mlpipeline/")
        proxy = requests.get(f"{url}/api/2.0/mlflow-artifacts/artifacts?path=", timeout=30)
        assert proxy.status_code == 503, "the server must not hand out files for others"
    else:
        assert place.startswith("mlflow-artifacts:/")
        bucket, key = "mlflow", place.removeprefix("mlflow-artifacts:/")
    assert client(store).get_object(Bucket=bucket, Key=f"{key}/note.txt")["Body"].read() == way.encode()
    listed = requests.get(f"{url}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}, timeout=30).json()
    assert [file["path"] for file in listed["files"]] == ["note.txt"], "what the UI shows"


def test_the_bucket_is_made_once_and_left_alone_after(render, store):
    init = pod_of(one(render("proxied"), "Deployment", "mlflow-server"))["initContainers"][0]
    assert init["command"] == ["python", "-c"]

    def run(**variables):
        own = {"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1"} | store | variables
        return subprocess.run([sys.executable, "-c", *init["args"]], env=own, capture_output=True, text=True)

    assert run(BUCKET="new-one").stdout == "Made the bucket new-one\n"
    client(store).put_object(Bucket="new-one", Key="kept", Body=b"1")
    assert run(BUCKET="new-one").stdout == "There is a bucket new-one\n"
    assert client(store).list_objects_v2(Bucket="new-one")["KeyCount"] == 1
    refused = run(BUCKET="another", AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode == 1 and "CreateBucket" not in refused.stderr, "a refusal is no missing bucket"


# --- the image, how it starts, and its workflow ----------------------------------------------------


@pytest.fixture
def dockerfile():
    """The instructions of the Dockerfile, as pairs of a word and the rest."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "image" / "Dockerfile").read_text(), flags=re.M)
    return [tuple(line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def test_the_image_is_what_tasks_and_notebooks_need(dockerfile):
    given = {}
    for word, rest in dockerfile:
        given.setdefault(word, []).append(rest)
    assert set(given) <= {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "CMD"}
    assert given["FROM"] == [mlflow_pipeline.STOCK_IMAGE]
    assert given["USER"] == ["1000"] and given["EXPOSE"] == ["8888"] and given["WORKDIR"] == ["/home/jovyan"]
    assert "HOME=/home/jovyan" in given["ENV"][0] and "NB_PREFIX=/" in given["ENV"][0]
    assert any("--require-hashes -r /opt/series/requirements.lock" in step for step in given["RUN"])
    assert any(
        "useradd --uid 1000" in step and step.split("useradd")[1].split("&&")[0].strip().endswith("jovyan")
        for step in given["RUN"]
    )
    assert json.loads(given["CMD"][-1]) == ["start-notebook"]
    assert dockerfile.index(("USER", "1000")) > max(
        n for n, (word, _) in enumerate(dockerfile) if word in ("RUN", "COPY")
    )


def test_what_the_image_copies_exists_and_is_in_the_build_context(dockerfile):
    ignore = (DEPLOY / "image" / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    let_in = {str(p.relative_to(ROOT)) for rule in ignore if rule[0] == "!" for p in ROOT.glob(rule[1:])}
    copied = [p for w, r in dockerfile if w == "COPY" for p in r.split()[:-1] if not p.startswith("--")]
    for source in copied:
        path = source.rstrip("/")
        assert (ROOT / path).exists(), f"{source} does not exist"
        assert any(p == path or p.startswith(f"{path}/") for p in let_in), f"{source} is kept out of the build"
    assert {
        "requirements.lock",
        "helpers",
        "notebooks",
        "deploy/image/start-notebook",
        "LICENSE",
        "README.md",
    } <= let_in


def test_everybody_calls_the_image_by_the_same_name():
    image = mlflow_pipeline.IMAGE
    name, _, tag = image.rpartition(":")
    for path in ("deploy/image/Dockerfile", "deploy/README.md", ".github/workflows/image.yml"):
        mentioned = re.findall(rf"{re.escape(name)}:[\w.]+", (ROOT / path).read_text())
        assert mentioned and set(mentioned) == {image}, path
    assert workflow()["env"]["IMAGE"] == image
    assert f"tag such as `v{tag}`" in (DEPLOY / "README.md").read_text()


def test_the_documented_change_makes_the_pipeline_use_a_published_image():
    (command,) = re.findall(r"^sed (\S+|'.*?') deploy/mlflow_pipeline.yaml", (DEPLOY / "README.md").read_text(), re.M)
    done = subprocess.run(
        ["sed", command.strip("'"), DEPLOY / "mlflow_pipeline.yaml"], capture_output=True, text=True, check=True
    )
    executors = next(yaml.safe_load_all(done.stdout))["deploymentSpec"]["executors"].values()
    assert {e["container"]["image"] for e in executors} == {f"ghcr.io/OWNER/{mlflow_pipeline.IMAGE}"}


def test_a_notebook_starts_under_kubeflows_base_url_and_keeps_what_was_written(tmp_path):
    script, port, home = DEPLOY / "image" / "start-notebook", free_port(), tmp_path / "home"
    home.mkdir()
    assert os.access(script, os.X_OK)
    series = tmp_path / "series"
    shutil.copytree(
        ROOT / "notebooks", series / "notebooks", ignore=shutil.ignore_patterns("images", ".ipynb_checkpoints")
    )
    (series / "exercises").mkdir()
    (series / "exercises" / "tasks.ipynb").write_text("{}")
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text("c.ServerApp.allow_root = True\n")  # the image's user is none
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "SERIES": str(series),
        "NB_PREFIX": "/notebook/someone/series",
        "JUPYTER_PORT": str(port),
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    log, base = tmp_path / "log", f"http://127.0.0.1:{port}/notebook/someone/series"
    first = "01_save_a_model.ipynb"
    for text in (None, "mine"):
        with open(log, "wb") as stream:
            process = subprocess.Popen(["sh", script], env=own, cwd=home, stdout=stream, stderr=subprocess.STDOUT)
        try:
            wait_for(f"{base}/api", process, log)
            through_gateway = {"Host": "kubeflow.example.com", "Origin": "https://kubeflow.example.com"}
            for page in ("lab", "api/kernels", f"api/contents/notebooks/{first}"):
                answer = requests.get(f"{base}/{page}", headers=through_gateway, timeout=30)
                if page != f"api/contents/notebooks/{first}" or text is None:
                    assert answer.status_code == 200, (page, answer.text[:300])
            assert requests.get(f"http://127.0.0.1:{port}/lab", timeout=30).status_code == 404, "only under NB_PREFIX"
        finally:
            end(process)
        if text is None:
            assert (home / "notebooks" / first).read_bytes() == (series / "notebooks" / first).read_bytes()
            (home / "notebooks" / first).write_text("mine")
    assert (home / "notebooks" / first).read_text() == "mine"
    for folder in ("notebooks", "exercises"):
        assert sorted(os.listdir(home / folder)) == sorted(os.listdir(series / folder))


def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text())


def test_the_workflow_runs_pinned_actions_with_the_least_rights():
    found = workflow()
    assert found[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the word "on" as true
    assert found["permissions"] == {}
    (job,) = found["jobs"].values()
    assert job["permissions"] == {"contents": "read", "packages": "write"}
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use) for use in uses), uses
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert "${{" not in step.get("run", ""), "what comes from outside goes through env"
        assert subprocess.run(["bash", "-n", "-c", step.get("run", "")]).returncode == 0
    assert job["steps"][0]["with"] == {"persist-credentials": False}
    assert any("docker build -f deploy/image/Dockerfile" in step.get("run", "") for step in job["steps"])


def test_the_workflow_publishes_only_a_tag_that_is_the_images_version():
    (check,) = [s["run"] for s in workflow()["jobs"]["publish"]["steps"] if s.get("name", "").startswith("The tag")]
    version = mlflow_pipeline.IMAGE.rpartition(":")[2]
    for tag, code in ((f"v{version}", 0), ("v9.9.9", 1), (version, 1)):
        own = os.environ | {"IMAGE": mlflow_pipeline.IMAGE, "GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-e", "-c", check], env=own).returncode == code, tag


# --- the migration page ----------------------------------------------------------------------------

COMPONENT = "from kfp import dsl\n@dsl.component(base_image='python:3.11')\ndef f(a: str): pass\n"
FILES = """from kfp import dsl
from kfp.dsl import InputPath, OutputPath
@dsl.component(base_image='python:3.11')
def load(data_path: OutputPath('csv')): pass
@dsl.component(base_image='python:3.11')
def train(train_data_path: InputPath('csv')): pass
@dsl.pipeline
def p():
    """
CLIENT = "from mlflow.tracking import MlflowClient\nclient = MlflowClient('sqlite:///old.db', None)\n"
SAVE = """import mlflow.sklearn
from sklearn.svm import SVC
model = SVC().fit([[0], [1]], [0, 1])
for _ in range(2):
    mlflow.sklearn.save_model(sk_model=model, path='svc', serialization_format='cloudpickle')
"""
OLD = {
    "from kfp.components import InputPath": "cannot import name 'InputPath' from 'kfp.components'",
    "from kfp.components import create_component_from_func": "cannot import name 'create_component_from_func' from 'kfp.components'",
    "import kfp\nkfp.components.create_component_from_func": "module 'kfp.components' has no attribute 'create_component_from_func'",
    "from kfp import dsl\n@dsl.component(base_image='python:3.11')\ndef f(a): pass": "Missing type annotation for argument: a",
    FILES + "train(train_data_path=load().outputs['data'])": "KeyError: 'data'",
    FILES + "train(train_data=load().outputs['data_path'])": 'train() got an unexpected keyword argument "train_data".',
    COMPONENT + "@dsl.pipeline\ndef p(k: str): f(k)": "Components must be instantiated using keyword arguments.",
    COMPONENT
    + "from kfp import compiler\ndef p(k: str): f(a=k)\ncompiler.Compiler().compile(p, 'x.yaml')": "Unsupported pipeline_func type.",
    COMPONENT
    + "from kfp import compiler\ncompiler.Compiler().compile(f, 'x.tar.gz')": 'The output path x.tar.gz should end with ".yaml".',
    "from kfp import components\ncomponents.load_component_from_text('apiVersion: argoproj.io/v1alpha1\\nkind: Workflow')": "KeyError: 'pipelineInfo'",
    "from kfp import dsl\ndsl.ContainerOp": "module 'kfp.dsl' has no attribute 'ContainerOp'",
    COMPONENT
    + "@dsl.pipeline\ndef p(k: str): f(a=k).add_env_variable": "'PipelineTask' object has no attribute 'add_env_variable'",
    "from kfp.onprem import use_k8s_secret": "No module named 'kfp.onprem'",
    COMPONENT
    + "@dsl.pipeline\ndef p(k: str): f(a=k).execution_options": "'PipelineTask' object has no attribute 'execution_options'",
    "from mlflow.tracking import MlflowClient\nMlflowClient('./mlruns', None).create_run('0')": "The filesystem tracking backend (e.g., './mlruns') is in maintenance mode",
    SAVE: "Path 'svc' already exists and is not empty",
    CLIENT
    + "client.create_experiment('iris')\nclient.create_experiment('iris')": "Experiment(name=iris) already exists.",
    CLIENT + "client.create_run('0').info.run_uuid": "'RunInfo' object has no attribute 'run_uuid'",
    CLIENT + "client.list_experiments()": "'MlflowClient' object has no attribute 'list_experiments'",
}


@pytest.mark.parametrize("old", OLD, ids=range(1, len(OLD) + 1))
def test_the_old_spelling_says_today_what_the_page_says(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.py").write_text(old)
    with pytest.raises(Exception) as raised:
        runpy.run_path("old.py")
    said = f"{type(raised.value).__name__}: {raised.value}"
    assert OLD[old] in said
    assert OLD[old] in (ROOT / "docs" / "migration.md").read_text(), "the page quotes another message"


def test_what_the_page_says_to_write_instead_exists():
    from kfp import dsl, kubernetes
    from mlflow import MlflowClient
    from mlflow.sklearn import get_default_conda_env

    assert all(
        map(callable, (dsl.component, dsl.container_component, kubernetes.use_secret_as_env, get_default_conda_env))
    )
    for name in ("set_env_variable", "set_caching_options"):
        assert hasattr(dsl.PipelineTask, name)
    for name in ("search_experiments", "search_runs", "set_terminated", "set_registered_model_alias"):
        assert hasattr(MlflowClient, name)


def test_links_of_the_pages_lead_somewhere():
    for page in (ROOT / "docs" / "migration.md", DEPLOY / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for target in re.findall(r"deploy/[\w./-]+\w", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_a_copy_of_the_objects_is_handed_out(render):
    """The tests that spoil an object must not spoil it for the next one."""
    before = copy.deepcopy(render("direct"))
    server_of(render("direct"))["args"].clear()
    assert render("direct") == before

"""The manifests: what they hold, what they let through, and that pipeline and server agree."""

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from support.manifests import (
    WAYS,
    containers_of,
    environment_of,
    init_of,
    mappings,
    one,
    option,
    pod_of,
    pods,
    server_of,
)

from helpers import paths

ROOT = paths.ROOT
DEPLOY = ROOT / "deploy"
OLDEST = "1.25"  # the lowest Kubernetes that deploy/README.md promises


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
    upgrade, init = init_of(objects, "upgrade"), init_of(objects, "bucket")
    database = ("MLFLOW_BACKEND_STORE_URI", "PGPASSWORD")
    assert [environment_of(upgrade)[n] for n in database] == [environment_of(server)[n] for n in database]
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
    _, of_task = of_task["exec-upload-sklearn-model-to-mlflow"]["secretAsEnv"]
    given = {e["envVar"]: e["secretKey"] for e in of_task["keyToEnv"]}
    assert given.items() >= {name: reference["secretKeyRef"]["key"] for name, reference in keys.items()}.items()
    assert {reference["secretKeyRef"]["name"] for reference in keys.values()} == {defaults["s3_secret_name"]}
    mount, source = objects[1]["spec"]["volumeMounts"][0], objects[1]["spec"]["volumes"][0]["projected"]["sources"][0]
    token = source["serviceAccountToken"]
    assert kfp == {"KF_PIPELINES_SA_TOKEN_PATH": f"{mount['mountPath']}/{token['path']}"}
    assert token["audience"] == "pipelines.kubeflow.org"


def test_the_commands_of_the_page_for_companies_make_what_tasks_read(render, tmp_path):
    page = (ROOT / "docs" / "your-company.md").read_text()
    (tmp_path / "one").write_text("accesskey=a\nsecretkey=b\nregion=eu-central-1\n")
    made = {}
    for command in re.findall(r"`(kubectl create [^`]+)`", page):
        command = re.sub(r"/path/to/[\w.]+", str(tmp_path / "one"), command)
        done = subprocess.run(f"{command} --dry-run=client -o json", shell=True, capture_output=True, check=True)
        object_ = json.loads(done.stdout)
        made[object_["metadata"]["name"]] = set(object_["data"])
    executors = pipeline_documents()[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    upload, defaults = executors["exec-upload-sklearn-model-to-mlflow"], pipeline_defaults()
    read = {
        reference["secretNameParameter"]["componentInputParameter"]: {e["secretKey"] for e in reference["keyToEnv"]}
        for reference in upload["secretAsEnv"]
    }
    assert made[defaults["mlflow_secret_name"]] == {"token"} < read["mlflow_secret_name"]
    assert made["my-s3"] == read["s3_secret_name"]
    (mounted,) = upload["configMapAsVolume"]
    file = Path(mounted["mountPath"]) / made[defaults["ca_config_map_name"]].pop()
    assert str(file) in (DEPLOY / "mlflow_pipeline.yaml").read_text(), "the task looks elsewhere"
    assert all(f"`{name}`" in page for name in ("username", "password", "patience"))

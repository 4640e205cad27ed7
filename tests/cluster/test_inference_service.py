"""The manifest that notebook 07 shows, against what KServe's definition of an InferenceService (v0.20) knows."""

import copy
import re
import types

import jsonschema
import kubernetes_validate
import nbformat
import pytest
import yaml

from helpers import paths

TEXT = {"type": "string", "minLength": 1}


def closed(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


# The part of the definition that the manifest uses; every other field is an error here.
SCHEMA = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    metadata=closed(["name"], name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}),
    spec=closed(
        ["predictor"],
        predictor=closed(
            ["model"],
            serviceAccountName=TEXT,
            model=closed(
                ["modelFormat", "storageUri"],
                modelFormat=closed(["name"], name={"const": "mlflow"}, version=TEXT),
                runtime={"const": "kserve-mlserver"},
                protocolVersion={"const": "v2"},  # the runtime for MLflow speaks no other
                storageUri={"type": "string", "pattern": "^s3://[^/]+/.+[^/]$"},
                resources={"type": "object"},
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def manifest():
    notebook = nbformat.read(paths.NOTEBOOKS / "07_register_and_serve.ipynb", as_version=4)
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    (text,) = [text for text in texts if "InferenceService" in text]
    return yaml.safe_load(text)


def test_it_fits(manifest):
    jsonschema.validate(manifest, SCHEMA)
    container = {"name": "model", "image": "i:1", "resources": manifest["spec"]["predictor"]["model"]["resources"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_it_points_to_the_folder_of_a_run(manifest):
    assert re.search(r"/[0-9a-f]{32}/artifacts/svc$", manifest["spec"]["predictor"]["model"]["storageUri"])


def test_its_account_is_the_one_that_the_page_makes(manifest):
    page = (paths.ROOT / "deploy" / "README.md").read_text()
    assert f"create serviceaccount {manifest['spec']['predictor']['serviceAccountName']} " in page


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(storageURI=model.pop("storageUri")),
        lambda model: model.update(storageUri="runs:/x/svc"),
        lambda model: model.update(protocolVersion="v1"),
        lambda model: model["modelFormat"].clear(),
    ],
)
def test_a_mistake_is_found(manifest, change):
    broken = copy.deepcopy(manifest)
    change(broken["spec"]["predictor"]["model"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_where_the_server_holds_the_keys_it_names_the_bucket_of_deploy():
    notebook = nbformat.read(paths.NOTEBOOKS / "07_register_and_serve.ipynb", as_version=4)
    (source,) = [cell.source for cell in notebook.cells if "storageUri" in cell.source and cell.cell_type == "code"]

    def run(uri):
        info = types.SimpleNamespace(artifact_uri=uri)
        client = types.SimpleNamespace(
            get_run=lambda run_id: types.SimpleNamespace(info=info),
            get_model_version_by_alias=lambda *_: types.SimpleNamespace(run_id="1"),
        )
        names = {"client": client, "registered_model_name": "m", "model_name": "svc"}
        exec(source, names)
        return names["model"]["storageUri"]

    destination = (paths.DEPLOY / "mlflow/overlays/proxied/kustomization.yaml").read_text()
    assert "s3://mlflow" in destination + "".join(
        p.read_text() for p in (paths.DEPLOY / "mlflow/overlays/proxied").glob("*")
    )
    assert run("mlflow-artifacts:/8/1/artifacts") == run("s3://mlflow/8/1/artifacts") == "s3://mlflow/8/1/artifacts/svc"

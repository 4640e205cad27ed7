"""docs/migration.md: the old spelling fails as the page says."""

import re
import runpy

import pytest

from helpers import paths

ROOT = paths.ROOT
DEPLOY = ROOT / "deploy"


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all: MLflow takes seconds to make a database."""
    return tmp_path_factory.mktemp("old")


@pytest.mark.parametrize("old", OLD, ids=range(1, len(OLD) + 1))
def test_the_old_spelling_says_today_what_the_page_says(old, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "old.py").write_text(old)
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

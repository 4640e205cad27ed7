"""What the tests of a cluster's files share."""

import shutil

import pytest
import yaml
from support.manifests import rendered


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """A function from the name of a way to its objects, each call with a fresh copy."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, and it is what renders the manifests: install it to run this test")
    folder = tmp_path_factory.mktemp("kustomize")
    return lambda way: list(yaml.safe_load_all(rendered(way, folder)))

"""The pipeline in one file, and the YAML that the repository stores of it."""

import contextlib
import re

import pytest
import yaml
from kfp.components import load_component_from_file
from packaging.requirements import Requirement

from helpers import paths, stack
from helpers.series import collect

FILES = [paths.DEPLOY / name for names in collect.COMPILED.values() for name in names]
IMAGE = paths.DEPLOY / "mlflow_pipeline.yaml"
PAIRS = [(image, image.with_stem(f"{image.stem}_packages")) for image in (IMAGE, paths.DEPLOY / "lean_pipeline.yaml")]
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def documents(path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def containers(path):
    executors = documents(path)[0]["deploymentSpec"]["executors"]
    return {name: executor["container"] for name, executor in executors.items()}


@pytest.mark.parametrize("tag", collect.COLLECTED)
def test_file_is_what_the_notebooks_collect(tag):
    stored = (collect.PIPELINES / f"{tag}.py").read_text(encoding="utf-8")
    assert stored == collect.collect(tag), "make refresh collects it anew"


@pytest.mark.parametrize("tag", collect.COMPILED)
def test_stored_yaml_is_up_to_date(tag, tmp_path):
    collect.compile_pipeline(tmp_path, collect.PIPELINES / f"{tag}.py", collect.COMPILED[tag])
    for name in collect.COMPILED[tag]:
        assert (paths.DEPLOY / name).read_bytes() == (tmp_path / name).read_bytes(), (
            f"make refresh compiles {name} anew"
        )


def test_no_yaml_is_left_over():
    assert sorted(path.name for path in paths.DEPLOY.glob("*.yaml")) == sorted(path.name for path in FILES)


@EVERY_FILE
def test_loads_as_a_reader_loads_it(path):
    assert load_component_from_file(str(path)).name == path.stem.removesuffix("_packages").replace("_", "-")


@pytest.mark.parametrize(("of_image", "of_packages"), PAIRS, ids=lambda path: path.stem)
def test_the_two_differ_in_image_and_installation_alone(of_image, of_packages):
    image, packages = containers(of_image), containers(of_packages)
    assert image.keys() == packages.keys()
    for name, container in packages.items():
        program = image[name]["command"]
        assert container["command"][-len(program) :] == program, "the same program runs in both"
        install = container["command"][: -len(program)]
        assert install[:2] == ["sh", "-c"] and len(install) == 3 and "pip install" in install[2]
        assert "pip install" not in " ".join(program[:-1]), "a task of the image installs nothing"
        assert container["image"] != image[name]["image"]
        # A task that is not root may write packages only where HOME leads.
        assert {entry["name"] for entry in container.get("env", [])} <= {"HOME"}
        rest = {"command", "image", "env"}
        assert {key: container[key] for key in container.keys() - rest} == {
            key: image[name][key] for key in image[name].keys() - rest
        }
    both = documents(of_image), documents(of_packages)
    for specification, _ in both:
        del specification["deploymentSpec"]
    assert both[0] == both[1]


@EVERY_FILE
def test_no_secret(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}", text), "an AWS access key"
    # The shapes of an AWS secret key and of the keys that helpers.stack makes.
    assert not re.search(r"(?<![\w+/=.-])(?=[\w+/]*\d)(?=[\w+/]*[A-Za-z])[A-Za-z0-9+/]{40}(?![\w+/=.-])", text)
    assert not re.search(r"\b[0-9a-f]{20}\b", text)
    with contextlib.suppress(stack.StackError):
        for name, value in stack.environment().items():
            assert not name.startswith("AWS_") or name == "AWS_DEFAULT_REGION" or value not in text, name
    for container in containers(path).values():
        for entry in container.get("env", []):
            assert entry["name"] == "HOME", "a value in the YAML is read by everybody who can see the pipeline"
    for executor in documents(path)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for reference in executor.get("secretAsEnv", []):
            assert set(reference) <= {"keyToEnv", "optional", "secretName", "secretNameParameter"}
            for entry in reference["keyToEnv"]:
                assert set(entry) == {"envVar", "secretKey"}
    names = [
        entry["envVar"]
        for executor in documents(path)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
        for reference in executor.get("secretAsEnv", [])
        for entry in reference["keyToEnv"]
    ]
    tasks = {"mlflow_pipeline": 1, "lean_pipeline": 3}[path.stem.removesuffix("_packages")]
    s3 = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"]
    mlflow = [f"MLFLOW_TRACKING_{name}" for name in ("TOKEN", "USERNAME", "PASSWORD")]
    assert sorted(names) == sorted(tasks * (s3 + mlflow)), "by reference, and to no task more"


@EVERY_FILE
def test_images_and_packages_are_pinned(path):
    for container in containers(path).values():
        name, _, tag = container["image"].rpartition(":")
        assert name and re.fullmatch(r"[\w.-]+", tag) and tag != "latest", container["image"]
    if path.stem.endswith("_packages"):
        for container in containers(path).values():
            for text in re.findall(r"'([^']+)'", container["command"][2]):
                if text.startswith("--"):
                    continue
                requirement = Requirement(text)
                if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
                    continue  # KFP's own, for Pythons of long ago
                assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), text


@EVERY_FILE
def test_address_defaults_are_those_of_a_cluster(path):
    inputs = documents(path)[0]["root"]["inputDefinitions"]["parameters"]
    for name in ("mlflow_tracking_uri", "mlflow_s3_endpoint_url"):
        assert ".svc" in inputs[name]["defaultValue"]


def test_a_pipeline_that_does_not_compile_leaves_the_old_yaml(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("open('mlflow_pipeline.yaml', 'w').write('half')\nraise ValueError('wired wrongly')\n")
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "mlflow_pipeline.yaml").write_text("old")
    with pytest.raises(paths.SeriesError, match="broken.py does not compile: ValueError: wired wrongly"):
        collect.compile_pipeline(folder, broken, ("mlflow_pipeline.yaml",))
    assert [path.read_text() for path in folder.iterdir()] == ["old"]

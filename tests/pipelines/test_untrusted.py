"""What comes from outside is refused by name, or does nothing beyond what it should: names, tables, keys, values."""

import ast
import inspect
import os
import re
import shlex

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from kfp import compiler, dsl, local
from kfp.dsl import HTML, Metrics, Model
from mlflow import MlflowClient
from papermill.translators import PythonTranslator
from pipelines.untrusted import HOSTILE, any_name, bounded, text, tried

from helpers import begin, names, paths, stack
from helpers.local_pipeline import task_states
from helpers.pipelines import gate, lean_pipeline, mlflow_pipeline, sweep_pipeline
from helpers.series import run


def is_plain(name: str) -> bool:
    """Say it in another way than the code does: an ASCII word that no path, shell or query reads anything into."""
    return (
        0 < len(name) <= 100
        and name[0].isalnum()
        and name.isascii()
        and ".." not in name
        and all(letter.isalnum() or letter in "._-" for letter in name)
    )


# --- names ---------------------------------------------------------------------------------------


@tried
@given(any_name)
def test_model_name_is_plain_or_refused_by_name(name):
    if is_plain(name):
        assert names.check_model_name(name) is None
        assert shlex.quote(name) == name and os.path.normpath(os.path.join("models", name)) == f"models/{name}"
    else:
        with pytest.raises(paths.SeriesError, match=r"^model_name=.* is not usable"):
            names.check_model_name(name)


class Reached(Exception):
    """The component went on to ask the server: the name got through."""


def ask(component, **chosen) -> None:
    """Call a component with nothing behind it, as far as the server's address."""
    given_ = dict.fromkeys(inspect.signature(component).parameters, "") | chosen
    given_ |= {"mlflow_tracking_uri": "http://127.0.0.1:9", "patience": 0}
    try:
        component(**given_)
    except (ConnectionError, IsADirectoryError):  # the first upload reads its files before
        raise Reached from None


@pytest.mark.parametrize(
    "component",
    [mlflow_pipeline.upload_sklearn_model_to_mlflow, lean_pipeline.upload_model_to_mlflow],
    ids=["first", "lean"],
)
def test_uploads_ask_no_server_about_a_name_that_is_not_plain(component, tmp_path):
    (tmp_path / "MLmodel").touch()
    model = Model(uri=str(tmp_path)) if component is lean_pipeline.upload_model_to_mlflow else str(tmp_path)

    @tried
    @given(any_name)
    def each(name):
        expected = (Reached, None) if is_plain(name) else (ValueError, "^model_name=.* is not usable")
        with pytest.raises(expected[0], match=expected[1]):
            ask(component, model_name=name, model=model)

    each()
    assert os.listdir(tmp_path) == ["MLmodel"]


@pytest.mark.parametrize(
    "component",
    [mlflow_pipeline.upload_sklearn_model_to_mlflow, lean_pipeline.upload_model_to_mlflow, sweep_pipeline.log_sweep],
    ids=["first", "lean", "sweep"],
)
def test_uploads_ask_no_server_about_a_job_that_ends_the_query(component, tmp_path):
    (tmp_path / "MLmodel").touch()
    model = Model(uri=str(tmp_path)) if component is lean_pipeline.upload_model_to_mlflow else str(tmp_path)
    chosen = {
        name: value
        for name, value in {"model_name": "svc", "model": model, "job_id": "x' or 'a' = 'a"}.items()
        if name in inspect.signature(component).parameters
    }
    with pytest.raises(ValueError, match="^job_id=.* is not usable: no id of KFP has a quote"):
        ask(component, **chosen)


@tried
@given(any_name)
def test_gate_asks_no_server_about_a_registered_name_that_is_not_plain(name):
    if not is_plain(name.replace("..", "a")):
        with pytest.raises(ValueError, match="^registered_model_name=.* is not usable"):
            ask(gate.promote_if_better, registered_model_name=name)


@tried
@given(any_name.filter(lambda name: name not in ("linear", "poly", "rbf", "sigmoid")))
def test_kernel_is_one_of_four_or_refused_by_name(name):
    for known in ("linear", "poly", "rbf", "sigmoid"):
        names.check_kernel(known)
    with pytest.raises(paths.SeriesError, match="^kernel=.* is unknown to SVC"):
        names.check_kernel(name)


@tried
@given(any_name, st.booleans())
@example("a'b", True)
@example("x" * 80, False)
def test_learners_own_name_is_plain_and_stays_when_asked_twice(name, own):
    os.environ["WORKSHOP_LEARNER"] = "anna"
    name = "anna-" + name if own else name
    try:
        found = names.own_name(name)
    except paths.SeriesError as error:
        assert str(error).startswith(f"{name.removeprefix('anna-')!r} is not usable")
    else:
        assert re.fullmatch(r"anna-[A-Za-z0-9-]+", found)
        assert names.own_name(found) == found


@tried
@given(any_name)
def test_learners_name_has_no_dash_and_no_surprise(name):
    try:
        assert re.fullmatch(r"[a-z0-9]{1,30}", names.check_learner(name))
    except paths.SeriesError as error:
        assert str(error).startswith("WORKSHOP_LEARNER=")


@pytest.mark.parametrize("name", [*(name for name in HOSTILE if name), "s3://b/../c", "x" * 400])
def test_experiment_of_any_name_is_a_number_in_the_bucket(servers, name):
    try:
        assert begin.experiment(name) == name
        experiment = MlflowClient().get_experiment(MlflowClient().create_experiment(name))
    except Exception as error:  # noqa: BLE001 - MLflow's own refusals have several types
        assert "\x00" in name or len(name) > 500, error
    else:
        assert experiment.name == name
        assert re.fullmatch(rf"s3://{stack.BUCKET}/\d+", experiment.artifact_location)


# --- parameters from a shell ---------------------------------------------------------------------


@tried
@given(text)
def test_parameters_are_pairs_or_refused(line):
    try:
        pairs = run.parse(line)
    except run.Refused as error:
        assert "name=value" in str(error)
    else:
        assert [f"{name}={value}" for name, value in pairs] == shlex.split(line)


@tried
@given(st.sampled_from(["kernel", "model_name", "experiment_name", "epochs", "__class__"]), any_name)
def test_parameter_reaches_the_notebook_as_that_very_text_or_not_at_all(name, value):
    notebook = paths.NOTEBOOKS / "05_run_the_pipeline.ipynb"
    try:
        chosen = run.parameters_for([notebook], [(name, value)])[notebook]
    except run.Refused as error:
        assert name in str(error)
    else:
        assert chosen == {name: value}
        cell = ast.parse(PythonTranslator.codify(chosen))  # what papermill writes into the notebook
        (statement,) = cell.body
        assert isinstance(statement, ast.Assign) and ast.literal_eval(statement.value) == value


# --- queries, YAML, HTML, shells ------------------------------------------------------------------


@pytest.mark.parametrize(
    "job_id", ["x' or 'a' = 'a", pytest.param("x' and tags.model_name = 'm"), "'", '"', "`", "\\", "%", "a\nb", "--"]
)
def test_job_id_finds_nobody_elses_run(servers, tmp_path, job_id):
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    where = {
        "model_name": "m",
        "experiment_name": "queries",
        "mlflow_tracking_uri": servers.tracking_uri,
        "mlflow_s3_endpoint_url": servers.s3_endpoint_url,
    }
    model, metrics = Model(uri=str(tmp_path)), Metrics(uri="none")
    other = lean_pipeline.upload_model_to_mlflow(model, metrics, job_id="x", **where)
    client = MlflowClient()
    count = len(client.search_runs([client.get_run(other).info.experiment_id]))
    try:
        found = lean_pipeline.upload_model_to_mlflow(model, metrics, job_id=job_id, **where)
    except Exception as error:  # noqa: BLE001 - the server's own word for a query that it cannot read
        assert ("filter" in str(error) or str(error).startswith("job_id=")) and len(
            client.search_runs([client.get_run(other).info.experiment_id])
        ) == count
    else:
        assert found != other and client.get_run(found).data.tags["kfp_job_id"] == job_id


def compiled(value: str, folder) -> list:
    """Compile a small pipeline with a default; return the YAML documents."""

    @dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
    def echo(word: str) -> str:
        return word

    @dsl.pipeline(name="small")
    def small(word: str = value) -> str:
        return echo(word=word).output

    compiler.Compiler().compile(small, str(folder / "small.yaml"))
    return list(yaml.safe_load_all((folder / "small.yaml").read_text(encoding="utf-8")))


@bounded(tried, max_examples=20)
@given(
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=60)
    | st.sampled_from(["- a: b", "&a *a", "'", "# x"])
)
def test_default_is_text_in_the_yaml_and_nothing_else(tmp_path, value):
    (document,) = compiled(value, tmp_path)
    assert set(document) == {"components", "deploymentSpec", "pipelineInfo", "root", "schemaVersion", "sdkVersion"}
    assert document["root"]["inputDefinitions"]["parameters"]["word"].get("defaultValue", "") == value


@pytest.mark.xfail(
    strict=True, reason="KFP 2.17 repeats defaults in a comment, which a line break ends: SECURITY.md says so"
)
def test_default_with_a_line_break_stays_in_its_comment(tmp_path):
    (document,) = compiled("a\nextra: 1", tmp_path)
    assert "extra" not in document


@pytest.mark.parametrize("path", sorted((paths.ROOT / "deploy").glob("*_pipeline*.yaml")), ids=lambda path: path.stem)
def test_stored_pipelines_have_no_line_break_in_a_default(path):
    pipeline, *_ = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    defaults = [entry.get("defaultValue", "") for entry in pipeline["root"]["inputDefinitions"]["parameters"].values()]
    assert defaults and all(str(default).isprintable() for default in defaults)


@tried
@given(text)
@example("<script>alert(1)</script>")
@example("</td><img src=x onerror=alert(1)>")
def test_report_of_the_sweep_shows_a_name_as_text(tmp_path, kernel):
    report, metrics = HTML(uri=str(tmp_path / "r")), Metrics(uri=str(tmp_path / "m"))
    sweep_pipeline.pick_best([{"kernel": kernel, "C": 1.0}], [0.5], metrics, report)
    tags = set(re.findall(r"<\s*/?([^\s>/]+)", (tmp_path / "r").read_text(encoding="utf-8")))
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td"}


@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def give_back(word: str, words: list[str]) -> list[str]:
    return [word, *words]


@dsl.pipeline(name="give-back")
def giving_back(word: str, words: list[str]) -> list[str]:
    return give_back(word=word, words=words).output


# KFP fills in its own placeholders, which begin so, wherever they stand.
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40).filter(
    lambda value: "{{$" not in value
)


@bounded(tried, max_examples=12)
@given(values | st.sampled_from([value for value in HOSTILE if "\x00" not in value]), st.lists(values, max_size=5))
@example(
    "$(touch ran)", ["`touch ran`", "'; touch ran; '", '"; touch ran; "', "a\nb", "\\", "%s", "--option", "python3"]
)
def test_no_shell_reads_what_a_task_is_given(tmp_path, monkeypatch, word, words):
    monkeypatch.chdir(tmp_path)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    with task_states():
        assert giving_back(word=word, words=words).output == [word, *words]
    assert set(os.listdir(tmp_path)) <= {"root", "workspace", "pipeline.log"}

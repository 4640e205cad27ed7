"""Where a notebook may write, what it is called, and which names it may take."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.place import Place

from helpers import begin, machine, paths, stack
from helpers.stack import link

# Starts as root where root runs the tests, and goes on as a user whom the folders do not belong to.
AS_ANOTHER = """
    import os
    from helpers import begin, paths, stack

    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)

    def try_all(*actions):
        for action in actions:
            try:
                action()
            except paths.SeriesError as error:
                print(error)

"""


# --- a notebook's folder -------------------------------------------------------------------------


def test_notebook_gets_an_empty_folder_of_its_own_and_the_same_one_again(other):
    folder = begin.notebook("01_first")
    assert folder == Path.cwd() == other.work / "notebooks" / "01_first"
    (folder / "model").mkdir()
    (folder / "model" / "left over").write_text("")
    assert begin.notebook("01_first") == folder == Path.cwd()
    assert not list(folder.iterdir())


def test_second_kernel_gets_a_second_folder_until_the_first_one_ends(other):
    code = "from helpers import begin; print(begin.notebook('01_first').name, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def kernel():
        kernels.append(subprocess.Popen([sys.executable, "-c", code], **pipes))
        return kernels[-1].stdout.readline().strip()

    kernels = []
    assert kernel() == "01_first"
    kept = other.work / "notebooks" / "01_first" / "kept"
    kept.write_text("")
    assert kernel() == "01_first-2" and kept.exists(), "the second kernel emptied the first one's folder"
    kernels[0].kill()
    kernels[0].wait()
    assert kernel() == "01_first"
    for one in kernels:
        one.kill()
        one.communicate()


def test_quiet_settings_leave_the_learners_own_alone(other, monkeypatch):
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    begin.notebook("01_first")
    assert {name: os.environ[name] for name in begin.QUIET} == begin.QUIET | {"MLFLOW_LOGGING_LEVEL": "DEBUG"}


# --- names that a reader chooses -----------------------------------------------------------------


def test_deleted_experiment_and_empty_name_are_refused(servers):
    experiment = MlflowClient().create_experiment("thrown away")
    begin.experiment("thrown away")
    begin.experiment("never made")
    MlflowClient().delete_experiment(experiment)
    with pytest.raises(paths.SeriesError, match=f"was deleted.*--experiment-id {experiment}$"):
        begin.experiment("thrown away")
    with pytest.raises(paths.SeriesError, match="experiment_name is empty"):
        begin.experiment("  ")


def test_two_kernels_of_one_notebook_have_a_registered_model_each(servers):
    code = "from helpers import begin; print(begin.registered_model('iris-twice', '07_test'), flush=True); input()"
    kernels = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    chosen = {kernel.stdout.readline().strip() for kernel in kernels}
    for kernel in kernels:
        kernel.communicate("\n")
    assert chosen == {"iris-twice", "iris-twice-2"}
    assert chosen <= {model.name for model in MlflowClient().search_registered_models()}
    assert begin.registered_model("iris-twice", "07_test") == "iris-twice", "they have ended"


# --- Jupyter's address ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NB_PREFIX": "/notebook/ns/name"}, "/notebook/ns/name/"),
        ({"NB_PREFIX": "/notebook/ns/name/"}, "/notebook/ns/name/"),
        ({"NB_PREFIX": "/"}, "/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/kim/"}, "/user/kim/"),
        ({"NB_PREFIX": "/notebook/ns/name", "JUPYTERHUB_SERVICE_PREFIX": "/user/kim/"}, "/notebook/ns/name/"),
        ({}, None),
    ],
)
def test_address_of_jupyter_from_the_environment(monkeypatch, tmp_path, variables, expected):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert link.jupyter_base_url() == expected


def test_address_of_jupyter_is_that_of_the_server_that_started_this_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    for number, (pid, base) in enumerate([(os.getpid(), "/elsewhere/"), (os.getppid(), "/lab/")]):
        (tmp_path / f"jpserver-{number}.json").write_text(json.dumps({"pid": pid, "base_url": base, "port": 8888}))
    assert link.jupyter_base_url() == "/lab/"


def test_link_leads_through_jupyter_alone_behind_a_gateway_and_through_it_too_on_a_laptop(monkeypatch):
    page = "experiments/1/runs?workflowType=machine_learning"
    here, far = stack.Stack("http://127.0.0.1:5001", None), stack.Stack("http://mlflow.example.test:5001", None)
    with monkeypatch.context() as patch:
        patch.setenv("NB_PREFIX", "/notebook/ns/name")
        html = here.link("experiments/1/runs", "runs").data
        assert html.count("href") == 1 and f'href="/notebook/ns/name/proxy/5001/#/{page}"' in html
        html = far.link("experiments/1/runs", "runs").data
        assert html.count("href") == 1 and f'href="http://mlflow.example.test:5001/#/{page}"' in html
    monkeypatch.setattr(link, "jupyter_base_url", lambda: "/")
    html = here.link("experiments/1/runs", "runs").data
    assert html.count("href") == 2
    assert 'href="http://127.0.0.1:5001/#/' in html and 'href="/proxy/5001/#/' in html


# --- the state folder ----------------------------------------------------------------------------


def test_error_is_shown_as_its_sentence_alone():
    assert paths.SeriesError("What to do.")._render_traceback_() == ["SeriesError: What to do."]


@pytest.fixture
def public():
    """A place that other users can read."""
    folder = Path(tempfile.mkdtemp(prefix="series-"))
    folder.chmod(0o755)
    place = Place(folder / "place")
    yield place
    if place.work.exists():
        place.work.chmod(0o755)
    shutil.rmtree(folder)


def test_read_only_state_folder_gets_one_clear_sentence(public):
    public.work.mkdir()
    public.work.chmod(0o555)
    done = public.run(AS_ANOTHER + '    try_all(paths.check_work_dir, lambda: begin.notebook("01_first"), stack.start)')
    assert done.stdout.splitlines() == 3 * [
        f"Cannot write to the state folder {public.work}: Permission denied. Free some space or make the folder "
        "writable, then run this again."
    ], done.stderr
    assert not list(public.work.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the files of another user")
def test_state_of_another_user_is_not_taken_for_none(public):
    public.work.mkdir()
    (public.work / "stack.json").write_text("{}")
    (public.work / "stack.json").chmod(0o600)
    (public.work / "notebooks" / "01_first").mkdir(parents=True)
    (public.work / "notebooks" / "01_first" / "model").write_text("")
    os.chown(public.work, 65534, 65534)
    os.chown(public.work / "notebooks", 65534, 65534)
    done = public.run(AS_ANOTHER + '    try_all(stack.start, stack.status, lambda: begin.notebook("01_first"))')
    started, status, notebook = done.stdout.splitlines()
    sentence = f"{public.work / 'stack.json'} belongs to another user: "
    assert started.startswith(sentence) and status.startswith(sentence)
    assert notebook.startswith(f"Cannot empty the folder {public.work / 'notebooks' / '01_first'}: ")
    assert stat.S_IMODE((public.work / "stack.json").stat().st_mode) == 0o600


def test_checkouts_that_cannot_be_written_to_get_a_state_folder_of_the_user_each(tmp_path, monkeypatch):
    monkeypatch.delenv("SERIES_WORK")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(paths.os, "access", lambda path, mode: False)  # root may write everywhere
    found = []
    for parent in ("anna", "ben"):  # two of one name
        monkeypatch.setattr(paths, "ROOT", tmp_path / parent / "series")
        found.append(paths.work_dir())
        paths.check_work_dir()
    assert len(set(found)) == 2
    if sys.platform == "linux":
        assert all(folder.is_relative_to(tmp_path / "state") and folder.is_dir() for folder in found)


def test_a_printed_command_can_be_pasted_wherever_one_is(tmp_path, monkeypatch):
    for folder in (paths.ROOT, tmp_path):
        monkeypatch.chdir(folder)
        done = subprocess.run(
            ["sh", "-c", paths.command("helpers.stack status")],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": os.defpath},
        )
        assert done.stdout.count("not running") == 2, done.stderr


def test_versions():
    assert machine.installed("python") == ".".join(map(str, sys.version_info[:3]))
    assert machine.installed("pytest") == pytest.__version__

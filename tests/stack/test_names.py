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

from support.place import Place
from helpers import begin, machine, names, paths, stack
from helpers.stack import link
from helpers.workshop import status

# Starts as root where root runs the tests, and goes on as a user whom the folders do not belong to.
AS_ANOTHER = """
    import os

    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
"""


def test_notebook_gets_an_empty_folder_of_its_own_and_the_same_one_again(other):
    folder = begin.notebook("01_first")
    assert folder == Path.cwd() == other.work / "notebooks" / "01_first"
    (folder / "model").mkdir()
    (folder / "model" / "left over").write_text("")
    assert begin.notebook("01_first") == folder == Path.cwd()
    assert not list(folder.iterdir())


def test_second_kernel_gets_a_second_folder_until_the_first_one_ends(other):
    begin = "from helpers import settings; print(begin.notebook('01_first').name, flush=True); input()"
    kernels = []
    for _ in range(3):
        kernels.append(
            subprocess.Popen(
                [sys.executable, "-c", begin],
                cwd=other.root,
                env=os.environ | {"PYTHONPATH": str(other.root)},
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        if len(kernels) == 1:
            assert kernels[0].stdout.readline() == "01_first\n"
            kept = other.work / "notebooks" / "01_first" / "kept"
            kept.write_text("")
        elif len(kernels) == 2:
            assert kernels[1].stdout.readline() == "01_first-2\n"
            assert kept.exists(), "the second kernel emptied the first one's folder"
            kernels[0].kill()
            kernels[0].wait()
        else:
            assert kernels[2].stdout.readline() == "01_first\n"
    for kernel in kernels:
        kernel.kill()
        kernel.communicate()


def test_quiet_settings_leave_the_learners_own_alone(other, monkeypatch):
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    begin.notebook("01_first")
    assert os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    assert {name: os.environ[name] for name in begin.QUIET} == begin.QUIET | {"MLFLOW_LOGGING_LEVEL": "DEBUG"}


@pytest.mark.parametrize("name", ["svc", "iris-svc", "a", "7", "A.b_c-1.0", "a" * 100])
def test_model_name_that_is_safe(name):
    names.check_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " a",
        "a ",
        "a b",
        "a/b",
        "a\\b",
        "/a",
        "..",
        ".",
        ".a",
        "a..b",
        "../a",
        "-a",
        "_a",
        "a\n",
        "a\0",
        "ä",
        "a" * 101,
        "a'b",
        'a"',
        "a:b",
        "~",
        "$HOME",
        "%2e%2e",
    ],
)
def test_model_name_that_is_not(name):
    with pytest.raises(paths.SeriesError, match="model_name=.* is not usable.*for example 'svc'"):
        names.check_model_name(name)


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
def test_kernel_that_svc_knows(kernel):
    names.check_kernel(kernel)


@pytest.mark.parametrize("kernel", ["", "RBF", "rbf ", "precomputed", "gauss", None])
def test_kernel_that_svc_does_not_know(kernel):
    with pytest.raises(paths.SeriesError, match="unknown to SVC: take one of linear, poly, rbf, sigmoid"):
        names.check_kernel(kernel)


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


def test_error_is_shown_as_its_sentence_alone():
    assert paths.SeriesError("What to do.")._render_traceback_() == ["SeriesError: What to do."]


@pytest.fixture
def public():
    """A checkout that other users can read."""
    folder = Path(tempfile.mkdtemp(prefix="series-"))
    folder.chmod(0o755)
    place = Place(folder / "checkout")
    yield checkout
    for path in [place.root, place.work]:
        if path.exists():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_read_only_state_folder_gets_one_clear_sentence(public):
    public.work.mkdir()
    public.work.chmod(0o555)
    done = public.run(
        AS_ANOTHER
        + """
    for action in (paths.check_work_dir, lambda: begin.notebook("01_first"), stack.start):
        try:
            action()
        except paths.SeriesError as error:
            print(error)
    """
    )
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
    done = public.run(
        AS_ANOTHER
        + """
    for action in (stack.start, stack.status, lambda: begin.notebook("01_first")):
        try:
            action()
        except paths.SeriesError as error:
            print(error)
    """
    )
    sentence = f"{public.work / 'stack.json'} belongs to another user: "
    started, status, notebook = done.stdout.splitlines()
    assert started.startswith(sentence) and status.startswith(sentence)
    assert notebook.startswith(f"Cannot empty the folder {public.work / 'notebooks' / '01_first'}: ")
    assert stat.S_IMODE((public.work / "stack.json").stat().st_mode) == 0o600


def test_checkout_that_cannot_be_written_to_gets_a_state_folder_of_the_user(public):
    state = Path(tempfile.mkdtemp(prefix="series-"))
    state.chmod(0o777)
    public.root.chmod(0o555)
    try:
        done = public.run(
            AS_ANOTHER
            + """
    paths.check_work_dir()
    print(paths.work_dir())
    """,
            XDG_STATE_HOME=str(state),
            HOME=str(state),
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_relative_to(state)
        assert Path(done.stdout.strip()).is_dir()
    finally:
        shutil.rmtree(state)


def test_versions():
    assert machine.installed("python") == ".".join(map(str, sys.version_info[:3]))
    assert machine.installed("pytest") == pytest.__version__

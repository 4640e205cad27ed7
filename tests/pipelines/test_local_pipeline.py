"""What a learner sees of a pipeline that runs on this machine: small pipelines, real tasks."""

import builtins
import contextlib
import logging
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from kfp import dsl, local

from helpers import paths
from helpers.local_pipeline import PipelineError, task_states


def component(function):
    return dsl.component(function, base_image="registry.example/image:1", install_kfp_package=False)


@component
def echo(text: str) -> str:
    print(f"noise about {text}")
    return text


@component
def refuse(text: str) -> str:
    raise ValueError(f"{text} is refused")


@component
def refuse_a_word(text: str) -> str:
    if text == "a word":
        raise ValueError(f"{text} is refused")
    return text


@component
def be_killed(text: str) -> str:
    import os

    os.kill(os.getpid(), 9)


@component
def leave(text: str) -> str:
    raise SystemExit(3)


@component
def exit_quietly(text: str) -> str:
    import os

    os._exit(3)


@component
def leave_a_folder(text: str) -> str:
    import tempfile

    return tempfile.mkdtemp()


@component
def succeed_at_second_try(text: str) -> str:
    import os

    if not os.path.exists(text):
        open(text, "w").close()
        raise ValueError("not yet")
    return text


def pipeline_of(second, **retry):
    @dsl.pipeline(name="small")
    def small(text: str = "a word") -> str:
        task = second(text=echo(text=text).output)
        if retry:
            task.set_retry(**retry)
        return task.output

    return small


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    start()
    return tmp_path


def start(**options) -> None:
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(Path("root").resolve()),
        workspace_root=str(Path("workspace").resolve()),
        **options,
    )


@pytest.fixture(autouse=True)
def everything_is_put_back(folder):
    root = logging.getLogger()

    def all_of_it():
        return (
            sys.executable,
            os.environ["PATH"],
            os.environ["TMPDIR"],
            sys.stdout,
            builtins.print,
            root.level,
            list(root.handlers),
        )

    before = all_of_it()
    yield
    assert all_of_it() == before
    assert not list((folder / "tmp").iterdir())


def state(name: str, word: str) -> str:
    return f"{name:<32}{word}\n"


def test_one_line_for_each_change_of_state_and_the_rest_in_the_log(folder, capfd):
    with task_states("run.log"):
        print("of the block itself")
        run = pipeline_of(leave_a_folder)(text="a word")
    out, err = capfd.readouterr()
    assert out == (
        state("echo", "running")
        + state("echo", "succeeded")
        + state("leave-a-folder", "running")
        + state("leave-a-folder", "succeeded")
    )
    assert err == ""
    log = (folder / "run.log").read_text()
    assert "noise about a word" in log and "of the block itself" in log
    assert not Path(run.output).exists(), "the task's temporary folder is still there"


def test_values_arrive_unchanged(folder):
    for text in ["python3", "a python3 b", "/usr/bin/python3 -m pip", "$HOME `id` \"'", "한글", "--option"]:
        with task_states():
            assert pipeline_of(echo)(text=text).output == text


def test_tasks_use_this_environment(folder):
    @component
    def where() -> str:
        import sys

        return sys.prefix

    with task_states():
        assert where().output == sys.prefix


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        (refuse, "ValueError: a word is refused"),
        (be_killed, "it was killed, most likely because the memory ran out. Free some and run it again."),
        (leave, "it ended without an exception."),
        (exit_quietly, "it ended without an exception."),
    ],
)
def test_failed_task_is_named_with_its_cause_and_its_log(folder, capfd, second, cause):
    name = second.name
    with pytest.raises(PipelineError) as caught, task_states("run.log"):
        pipeline_of(second)()
    assert str(caught.value) == f"Task {name!r} failed: {cause}\nThe whole log: run.log"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert caught.value._render_traceback_() == [f"PipelineError: {caught.value}"]
    assert capfd.readouterr().out == (
        state("echo", "running") + state("echo", "succeeded") + state(name, "running") + state(name, "failed")
    )
    assert f"Executing task '{name}'" in re.sub(r"\x1b\[\d+m", "", (folder / "run.log").read_text())


def test_failed_component_that_runs_by_itself_reads_the_same(folder, capfd):
    with (
        pytest.raises(PipelineError, match=r"^Task 'refuse' failed: ValueError: a is refused\nThe whole log: "),
        task_states(),
    ):
        refuse(text="a")
    assert capfd.readouterr().out == state("refuse", "running") + state("refuse", "failed")


def test_failure_is_told_also_when_kfp_is_asked_not_to_raise(folder):
    start(raise_on_error=False)
    with pytest.raises(PipelineError, match="Task 'refuse' failed: ValueError: a word is refused"), task_states():
        pipeline_of(refuse)()


def test_second_try_that_succeeds_is_no_failure(folder, capfd):
    with task_states():
        run = pipeline_of(succeed_at_second_try, num_retries=2)(text=str(folder / "flag"))
    assert run.output == str(folder / "flag")
    words = [line.split()[1] for line in capfd.readouterr().out.splitlines()[2:]]
    assert words == ["running", "failed", "running", "succeeded"]


def test_last_try_that_fails_is_a_failure(folder):
    with pytest.raises(PipelineError, match="Task 'refuse' failed: ValueError: a word is refused"), task_states():
        pipeline_of(refuse, num_retries=1)()


def test_tasks_side_by_side_share_a_line_and_leave_nothing_of_kfp_behind(folder, capfd):
    @dsl.pipeline(name="loop")
    def loop():
        with dsl.ParallelFor(["a", "b", "c"]) as text:
            echo(text=text)

    for _ in range(3):
        with task_states():
            loop()
    ends = "\r".join(f"{'echo':<32}succeeded{times}" for times in ("", " 2 times", " 3 times"))
    assert capfd.readouterr().out == 3 * (state("echo", "running") + ends + "\n"), "one line of each kind, which counts"
    print("not indented")
    assert capfd.readouterr().out == "not indented\n"


def test_one_of_many_side_by_side_fails_with_its_own_cause(folder):
    @dsl.pipeline(name="loop")
    def loop():
        with dsl.ParallelFor(["a", "a word", "b", "c"], parallelism=2) as text:
            refuse_a_word(text=text)

    with (
        pytest.raises(PipelineError, match="Task 'refuse-a-word' failed: ValueError: a word is refused"),
        task_states(),
    ):
        loop()


def test_cached_task_says_so(folder, capfd):
    start(enable_caching=True, cache_root="cache")
    for _ in range(2):
        with task_states():
            assert pipeline_of(echo)(text="same").output == "same"
    assert capfd.readouterr().out == "".join(
        state(name, word)
        for name, word in [
            ("echo", "running"),
            ("echo", "succeeded"),
            ("echo-2", "running"),
            ("echo-2", "succeeded"),
            ("echo", "cached"),
            ("echo-2", "cached"),
        ]
    )


def test_what_the_block_raises_itself_passes_through(folder):
    for exception in (KeyboardInterrupt, RuntimeError("mine"), ValueError("mine")):
        with pytest.raises(type(exception) if isinstance(exception, Exception) else exception), task_states():
            raise exception
    with pytest.raises(TypeError, match="word"), task_states():
        pipeline_of(echo)(word="unknown parameter")


def test_interrupt_from_the_keyboard_ends_the_run(folder):
    script = folder / "long.py"
    script.write_text(f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background ignores
sys.path.insert(0, {str(Path(paths.__file__).parent.parent)!r})
from kfp import dsl, local
from helpers.local_pipeline import task_states

@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def wait():
    import time
    time.sleep(30)

local.init(local.SubprocessRunner(use_venv=False), workspace_root="workspace")
try:
    with task_states():
        wait()
except KeyboardInterrupt:
    print("interrupted")
""")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == state("wait", "running")
        time.sleep(1)
        for _ in range(4):  # who presses Ctrl-C and sees nothing happen presses it again
            os.killpg(process.pid, 2)  # as a terminal does it: everybody in the group
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(7)
                break
        assert process.communicate(timeout=30)[0] == "interrupted\n"
    finally:
        process.kill()


def test_checkout_and_environment_whose_paths_have_spaces(place):
    """kfp.local alone puts the interpreter's path unquoted into a shell command."""
    environment = place.folder / "an environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    script = place.folder / "run it.py"
    script.write_text("""
import sys
from kfp import dsl, local
from helpers import begin, paths
from helpers.local_pipeline import task_states

@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def where() -> str:
    import sys
    return sys.prefix

folder = begin.notebook("05 run")
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"), workspace_root=str(folder / "ws"))
with task_states():
    run = where()
print(run.output == sys.prefix, " " in sys.prefix, folder.is_relative_to(paths.work_dir()))
""")
    (site,) = environment.glob("lib/*/site-packages")
    (site / "here.pth").write_text(f"{paths.ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    done = subprocess.run([environment / "bin" / "python", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "where                           running",
        "where                           succeeded",
        "True True True",
    ], done.stderr

"""The command that runs the notebooks, and the one that refreshes them; kernels are real."""

import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat import v4

from helpers import paths, stack
from helpers.series import collect, notebooks, refresh, run


@pytest.fixture
def work(tmp_path):
    """The state folder of the test."""
    yield paths.work_dir()
    if (paths.work_dir() / "stack.json").exists():  # what should have been refused was not
        stack.stop()


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of the given code cells; a pair is a source and its tags."""

    def write(*cells, name="01_tiny"):
        made = []
        for number, cell in enumerate(cells):
            source, tags = (cell, []) if isinstance(cell, str) else cell
            made.append(v4.new_code_cell(source, id=f"cell-{number}", metadata={"tags": tags} if tags else {}))
        path = tmp_path / f"{name}.ipynb"
        metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(v4.new_notebook(cells=made, metadata=metadata), path)
        return path

    return write


def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


# --- what is refused before anything runs ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "kernle", "linear"], r"no parameter 'kernle'\. Known are: .*kernel.*model_name"),
        (["01", "-p", "experiment_name", "iris"], r"no parameter 'experiment_name'"),
        (["--params", "kernel"], "name=value"),
        (["--params", "kernel='rbf"], "cannot be read"),
        (["-p", "kernel", "cubic"], "linear, poly, rbf"),
        (["--params", "model_name="], "model_name='' is not usable"),
        (["--params", "model_name=../svc"], "not usable"),
        (["--params", "model_name=' svc'"], "not usable"),
        (["99"], "01_save_a_model"),
        (["--refresh", "-p", "kernel", "rbf"], "with their own parameters"),
        (["--jobs", "0"], "--jobs 0 runs nothing"),
    ],
    ids=str,
)
def test_refused(work, capsys, arguments, message):
    assert run.main(arguments) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert said.err.count("\n") == 1 and not said.out, "one clear sentence"
    assert not work.exists(), "nothing ran"


def test_a_full_or_read_only_state_folder_is_said(work, capsys):
    work.write_text("a file where the folder should be")
    assert run.main(["01"]) == 1
    assert "Cannot write to the state folder" in capsys.readouterr().err


TYPED = 'name = "7"  # a\ncount = 3  # b\nrate = 0.5  # c\nfast = True  # d\n'


def test_values_take_the_type_of_the_default(notebook):
    path = notebook((TYPED, ["parameters"]))
    pairs = [("name", "12"), ("count", "-4"), ("rate", "1e-3"), ("fast", "False")]
    assert run.parameters_for([path], pairs) == {path: {"name": "12", "count": -4, "rate": 0.001, "fast": False}}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", "1.5", "not a whole number"),
        ("rate", "much", "not a number"),
        ("fast", "maybe", "neither true nor false"),
    ],
)
def test_wrong_types_are_refused(notebook, name, value, message):
    with pytest.raises(notebooks.Refused, match=f"{name}='{value}' is {message}"):
        run.parameters_for([notebook((TYPED, ["parameters"]))], [(name, value)])


def test_a_parameter_goes_only_where_it_is_declared(notebook):
    first = notebook(('kernel = "rbf"  # a', ["parameters"]), name="01_a")
    second = notebook(('other = "x"  # a', ["parameters"]), name="02_b")
    pairs = run.parse("kernel=poly other='two words'")
    assert run.parameters_for([first, second], pairs) == {first: {"kernel": "poly"}, second: {"other": "two words"}}


def test_find_takes_numbers_and_names_in_the_order_given(notebook, tmp_path):
    paths = [notebook("1", name=name) for name in ("01_a", "02_b", "03_c")]
    assert notebooks.find([], tmp_path) == paths
    assert notebooks.find(["03", "01_a", "notebooks/02_b.ipynb", "03"], tmp_path) == [
        paths[2],
        paths[0],
        paths[1],
        paths[2],
    ]


# --- running ---------------------------------------------------------------------------------------


def test_run_is_quiet_and_uses_this_interpreter(notebook, work, tmp_path, monkeypatch, capfd):
    # Another kernel named python3, in the place that Jupyter searches first.
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "foreign", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    path = notebook(('kernel = "rbf"  # a', ["parameters"]), "import sys\nprint(kernel, sys.executable)")
    folder = run.new_folder()
    run.run([(path, {"kernel": "poly"}), (path, {})], folder)
    first, again = folder / "01_tiny.ipynb", folder / "01_tiny-2.ipynb"
    assert code(first)[-1].outputs[0].text == f"poly {sys.executable}\n"
    assert code(again)[-1].outputs[0].text == f"rbf {sys.executable}\n"
    said = capfd.readouterr()
    assert not said.err
    assert re.fullmatch(r"(01_tiny  done +\d+\.\d s\n){2}", said.out)


def test_a_failing_notebook_gives_a_short_message(notebook, work, capfd):
    path = notebook("print('fine')", "def f():\n    1 / 0\nf()", "print('never')")
    folder = run.new_folder()
    with pytest.raises(run.NotebookError) as raised:
        run.run([(path, {})], folder)
    assert str(raised.value) == (
        f"01_tiny failed in cell [2]: ZeroDivisionError: division by zero\nLook at it here: {folder / '01_tiny.ipynb'}"
    )
    assert (folder / "01_tiny.ipynb").exists()
    said = capfd.readouterr()
    assert not said.err and "failed" in said.out


def test_a_kernel_that_dies_is_said(notebook, work):
    path = notebook("1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(run.NotebookError, match=r"cell \[2\]: its kernel died"):
        run.run([(path, {})], run.new_folder())


def test_an_error_on_purpose_is_no_failure(notebook, work):
    path = notebook(("1 / 0", ["raises-exception"]), "print('went on')")
    folder = run.new_folder()
    run.run([(path, {})], folder)
    executed = nbformat.read(folder / path.name, as_version=4)
    assert [cell.cell_type for cell in executed.cells] == ["code", "code"], "papermill's marks are gone"
    assert executed.cells[1].outputs[0].text == "went on\n"


MEET = """
import pathlib, time
pathlib.Path({folder!r}, {own!r}).touch()
for _ in range(600):
    if pathlib.Path({folder!r}, {other!r}).exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("alone")
"""


def meeting(tmp_path, own, other):
    """A cell that waits until another notebook runs."""
    return MEET.format(folder=str(tmp_path), own=own, other=other)


def test_two_run_at_once_and_each_has_a_line(notebook, work, tmp_path, capfd):
    paths = [notebook(meeting(tmp_path, "a", "b"), name="01_a"), notebook(meeting(tmp_path, "b", "a"), name="02_b")]
    folder = run.new_folder()
    run.run([(path, {}) for path in paths], folder, 2)
    said = capfd.readouterr()
    assert not said.err
    assert sorted(re.findall(r"^(\w+)  done +\d+\.\d s$", said.out, re.MULTILINE)) == ["01_a", "02_b"]
    assert all(cell.execution_count for path in paths for cell in code(folder / path.name))


def test_of_two_at_once_one_fails_and_no_more_is_begun(notebook, work, tmp_path, capfd):
    fails = notebook(meeting(tmp_path, "a", "b") + "1 / 0", name="01_a")
    folder = run.new_folder()
    seen = f"while 'ZeroDivisionError' not in open({str(folder / '01_a.ipynb')!r}).read(): time.sleep(0.1)\n"
    slow = notebook(meeting(tmp_path, "b", "a") + seen + "time.sleep(3)", name="02_b")
    with pytest.raises(run.NotebookError, match=r"01_a failed in cell \[1\]: ZeroDivisionError"):
        run.run([(fails, {}), (slow, {}), (notebook("1", name="03_c"), {})], folder, 2)
    assert re.search("^02_b  done", capfd.readouterr().out, re.MULTILINE), "what ran already comes to its end"
    assert not (folder / "03_c.ipynb").exists()


def test_an_interrupt_ends_the_kernels_of_all_that_run(notebook, work, tmp_path):
    paths = [
        notebook(meeting(tmp_path, "a", "b") + "time.sleep(600)", name="01_a"),
        notebook(meeting(tmp_path, "b", "a") + "time.sleep(600)", name="02_b"),
        notebook("1", name="03_c"),
    ]
    folder = run.new_folder()
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom helpers.series import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background ignores\n"
        f"run.run([(Path(path), {{}}) for path in sys.argv[1:]], Path({str(folder)!r}), 2)\n"
    )
    running = subprocess.Popen(
        [sys.executable, program, *map(str, paths)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        for name in ("a", "b"):
            for _ in range(600):
                if (tmp_path / name).exists():
                    break
                time.sleep(0.1)
        kernels = psutil.Process(running.pid).children()
        assert len(kernels) == 2
        running.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in running.communicate(timeout=60)[1].decode()
        assert not psutil.wait_procs(kernels, timeout=10)[1]
        assert not (folder / "03_c.ipynb").exists()
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(
    ("cores", "memory", "free", "jobs"),
    [
        (2, 8e9, 4e9, 2),
        (16, 64e9, 30e9, 2),
        (1, 8e9, 4e9, 1),
        (1.5, 8e9, 4e9, 1),
        (2, 2.2e9, 2.1e9, 1),
        (4, 8e9, 1e9, 1),
    ],
)
def test_a_small_or_busy_machine_runs_one_at_a_time(monkeypatch, cores, memory, free, jobs):
    monkeypatch.setattr(run.machine, "cores", lambda: cores)
    monkeypatch.setattr(run.machine, "memory", lambda: memory)
    monkeypatch.setattr(run, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert run.jobs() == jobs


def test_a_terminal_says_what_runs_at_once(notebook, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    line = run.Line()
    first, second = (run.Progress(name, notebook("1", "2"), line=line) for name in ("01_a", "02_b"))
    first.step(None, 0)
    second.step(None, 0)
    assert capsys.readouterr().out.endswith("\r\x1b[K01_a: cell 1 of 2, 02_b: cell 1 of 2")
    first.end("done")
    assert re.fullmatch(r"\r\x1b\[K01_a  done +\d\.\d s\n\r\x1b\[K02_b: cell 1 of 2", capsys.readouterr().out)


def test_progress_says_which_cell_of_how_many(notebook, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = run.Progress("01_tiny", notebook("1", "2"), injected=True)
    progress.step(None, 0)
    progress.end("done")
    said = capsys.readouterr().out
    assert "\r\x1b[K01_tiny: cell 1 of 3" in said and said.endswith(" s\n")


def test_folders_of_runs_are_unique(work):
    assert len({run.new_folder() for _ in range(5)}) == 5


# --- collecting and refreshing ---------------------------------------------------------------------


def test_collect_joins_the_tagged_cells(notebook, tmp_path):
    assert collect.collect("mlflow_pipeline", tmp_path) == ""
    notebook(
        ("import kfp\n", ["mlflow_pipeline"]),
        "print('not this')",
        ("def f():\n    pass", ["mlflow_pipeline"]),
        name="03_c",
    )
    notebook(("X = 1", ["mlflow_pipeline"]), name="04_d")
    notebook(("Y = 1", ["gate"]), name="05_e")
    assert collect.collect("gate", tmp_path).endswith('"""\n\nY = 1\n')
    assert collect.collect("mlflow_pipeline", tmp_path) == (
        '"""The pipeline of the series in one file: run it to compile it."""\n\n'
        "import kfp\n\n\ndef f():\n    pass\n\n\nX = 1\n"
    )


def test_refresh_cleans(notebook):
    path = notebook(
        "import time\nfor i in range(9, 12):\n    print(f'\\rStarting: {i} s', end='', flush=True)\n    time.sleep(0.1)\n"
        "print('\\rReady after 11 s')",
        "1 + 1",
        "",
    )
    before = nbformat.read(path, as_version=4)
    before.cells[0].metadata["execution"] = {"iopub.status.busy": "now"}
    before.metadata["papermill"] = {"duration": 1}
    nbformat.write(before, path)
    refresh.refresh_one(path)
    text = path.read_text(encoding="utf-8")
    after = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert [cell.execution_count for cell in after.cells] == [1, 2, None]
    assert after.cells[0].outputs == [{"name": "stdout", "output_type": "stream", "text": "Ready after 11 s\n"}]
    assert not after.cells[0].metadata and set(after.metadata) == {"kernelspec", "language_info"}
    assert (after.nbformat, after.nbformat_minor) == (4, 5) and text.endswith("}\n")
    refresh.refresh_one(path)
    assert path.read_text(encoding="utf-8") == text, "a second time changes nothing"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\rA\rB\n", "B\n"),
        ("long\rab", "abng"),
        ("a\r\nb\n", "a\nb\n"),
        ("0%\r50%\r100%\nnext\rNEXT\n", "100%\nNEXT\n"),
    ],
)
def test_a_terminal_shows_the_final_state(written, shown):
    outputs = [v4.new_output("stream", name="stdout", text=part) for part in written.partition("\r")]
    made = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=outputs)])
    refresh.clean(made)
    assert [output.text for output in made.cells[0].outputs] == [shown]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys; print('a warning', file=sys.stderr)", r"cell \[1\] wrote to stderr: a warning"),
        ("import os; print(os.environ['ROOT'] + '/x')", "shows the folder"),
        ("from pathlib import Path; print(Path.home())", "shows the folder"),
        ("print('/ho' + 'me/' + __import__('getpass').getuser() + '/x')", "shows the user's name"),
        ("print('/tm' + 'p/x')", "shows a path of this machine"),
        ("import os; print('key', os.environ['AWS_SECRET_ACCESS_KEY'])", "shows the value of AWS_SECRET_ACCESS_KEY"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_refresh_refuses_and_leaves_the_notebook_alone(notebook, monkeypatch, tmp_path, source, reason):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-others")
    monkeypatch.setenv("ROOT", str(paths.ROOT))
    monkeypatch.setenv("HOME", "/usr/share/nobody")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = notebook(source)
    before = path.read_bytes()
    with pytest.raises(paths.SeriesError, match=reason) as raised:
        refresh.refresh_one(path)
    assert path.read_bytes() == before and not list(path.parent.glob(".*.new"))
    assert "not-for-others" not in str(raised.value)


def test_refresh_keeps_an_error_on_purpose(notebook):
    path = notebook(("raise ValueError('on purpose')", ["raises-exception"]))
    refresh.refresh_one(path)
    assert code(path)[0].outputs[0].ename == "ValueError"

"""The short form of the benchmarks: no time is measured here, only what kind of work is done."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kfp import components, dsl, local

from helpers import machine, paths
from helpers.local_pipeline import task_states

sys.path.insert(0, str(paths.ROOT / "benchmarks"))
import ratios  # noqa: E402
import scaling  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
_spawned: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _spawned is not None and event == "subprocess.Popen":
        command = arguments[1]
        _spawned.append(command if isinstance(command, str) else " ".join(map(str, command)))


sys.addaudithook(_hook)


@pytest.fixture
def spawned():
    """Collect every command that this process starts."""
    global _spawned
    _spawned = []
    yield _spawned
    _spawned = None


def extra_work(commands: list[str]) -> list[str]:
    """Return the commands that install something or make an environment."""
    return [command for command in commands if re.search(r"pip install|\bvenv\b", command)]


# --- a task costs what it does ---------------------------------------------------------------------


def test_a_local_run_of_the_stored_pipeline_starts_three_tasks_and_nothing_else(
    servers, spawned, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pipeline = components.load_component_from_file(str(REPOSITORY / "deploy" / "mlflow_pipeline.yaml"))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    with task_states():
        pipeline(mlflow_tracking_uri=servers.tracking_uri, mlflow_s3_endpoint_url=servers.s3_endpoint_url or "")
    assert len(spawned) == 3, spawned
    assert not extra_work(spawned)


def test_an_environment_or_an_installation_for_each_task_would_be_seen(spawned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def nothing():
        pass

    bare = dsl.component(nothing, base_image="registry.example/python:1", install_kfp_package=False)
    local.init(
        local.SubprocessRunner(use_venv=True), pipeline_root="root", workspace_root="workspace", raise_on_error=False
    )
    with pytest.raises(Exception, match="nothing"), task_states():  # KFP itself is not in its new environment
        bare()
    assert extra_work(spawned), spawned

    del spawned[:]
    packaged = dsl.component(
        nothing,
        base_image="registry.example/python:1",
        install_kfp_package=False,
        packages_to_install=[f"dill=={machine.installed('dill')}"],
    )  # is there: nobody is asked
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    with task_states():
        packaged()
    assert extra_work(spawned), spawned


def test_make_test_runs_two_at_a_time():
    commands = subprocess.run(["make", "-n", "test"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (pytest_line,) = [line for line in commands.splitlines() if "-m pytest" in line]
    assert re.search(r"-n 2 --dist loadscope .*--nbval .*\bnotebooks$", pytest_line), pytest_line


# --- the table judges ------------------------------------------------------------------------------


def row(ours, theirs, **options) -> ratios.Row:
    return ratios.Row("ours", "theirs", 1.1, ours, theirs, **options)


def test_a_target_is_met_by_the_median_and_missed_above_it():
    assert row([1.0, 1.0, 9.0], [1.0, 1.0, 1.0]).met
    assert not row([1.2, 1.2, 0.1], [1.0, 1.0, 1.0]).met
    assert row([1.0], [7.0], faster=True).met and not row([7.0], [7.0], faster=True).met
    assert row([1.2], [1.0]).cells()[-1] == "**missed**"
    assert row([1.0, 2.0], [1.0, 1.0]).cells()[4:7] == ["1.50 x", "1.00-2.00", "2"]


@pytest.mark.parametrize(("ours", "code"), [(1.0, 0), (1.2, 1)])
def test_a_missed_target_is_the_exit_code(tmp_path, monkeypatch, capsys, ours, code):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ratios: made by make bench -->\nold\n<!-- end of ratios -->\nafter\n")
    monkeypatch.setattr(ratios, "PAGE", page)
    monkeypatch.setattr(ratios, "RESULT", tmp_path / "ratios.json")
    monkeypatch.setattr(ratios, "ROWS", {"one": (lambda runs: [row([ours] * runs, [1.0] * runs)], 3)})
    assert ratios.main([]) == code
    assert ("Missed: ours" in capsys.readouterr().err) == bool(code)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert ("**missed**" in text) == bool(code)
    with pytest.raises(SystemExit):
        ratios.main(["two"])


def test_a_prediction_is_tried_on_a_point_that_it_has_not_seen():
    straight = {1: 3.0, 10: 21.0, 20: 41.0, 30: 61.0}
    found, off = scaling.predicted("seconds", "s", straight, 20)
    assert abs(off) < 1e-9 and found[2] == "1, 10, 30"
    assert scaling.predicted("seconds", "s", straight | {20: 30.0}, 20)[1] > 0.3


def test_the_pages_show_what_was_measured(tmp_path, monkeypatch):
    pages = {name: tmp_path / f"{name}.md" for name in ("benchmarks", "scaling")}
    for name, path in pages.items():
        path.write_text((REPOSITORY / "docs" / f"{name}.md").read_text())
    monkeypatch.setattr(ratios, "PAGE", pages["benchmarks"])
    monkeypatch.setattr(scaling, "PAGE", pages["scaling"])
    ratios.write_page(json.loads((REPOSITORY / "docs" / "benchmarks" / "ratios.json").read_text()))
    assert scaling.main() == 0
    for name, path in pages.items():
        assert path.read_text() == (REPOSITORY / "docs" / f"{name}.md").read_text(), "run make bench"

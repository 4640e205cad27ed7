"""The short form of the benchmarks: no time is measured here, only what kind of work is done, and how it is judged."""

import json
import re
import sys

import pytest
from kfp import components, local

from helpers import paths
from helpers.local_pipeline import task_states
from tools.bench import __main__ as bench
from tools.bench import common, ratios, scaling

_spawned: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _spawned is not None and event == "subprocess.Popen":
        command = arguments[1]
        _spawned.append(command if isinstance(command, str) else " ".join(map(str, command)))


sys.addaudithook(_hook)


@pytest.fixture
def spawned(tmp_path, monkeypatch):
    """Collect every command that this process starts; KFP's runner is set up as the notebooks set it up."""
    global _spawned
    monkeypatch.chdir(tmp_path)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    _spawned = []
    yield _spawned
    _spawned = None


def extra_work(commands: list[str]) -> list[str]:
    """Return the commands that install something or make an environment."""
    return [command for command in commands if re.search(r"pip install|\bvenv\b", command)]


@pytest.mark.slow
def test_a_local_run_of_the_stored_pipeline_starts_three_tasks_and_nothing_else(servers, spawned):
    pipeline = components.load_component_from_file(str(paths.DEPLOY / "mlflow_pipeline.yaml"))
    with task_states():
        pipeline(**common.addresses(servers))
    assert len(spawned) == 3, spawned
    assert not extra_work(spawned)


def row(ours, theirs, **options) -> common.Row:
    return common.Row("ours", "theirs", 1.1, ours, theirs, **options)


def test_a_target_is_met_by_the_median_and_missed_above_it():
    assert row([1.0, 1.0, 9.0], [1.0, 1.0, 1.0]).met
    assert not row([1.2, 1.2, 0.1], [1.0, 1.0, 1.0]).met
    assert row([1.0], [7.0], faster=True).met and not row([7.0], [7.0], faster=True).met
    assert row([1.2], [1.0]).cells()[-1] == "**missed**"
    assert row([1.0, 2.0], [1.0, 1.0]).cells()[4:7] == ["1.50 x", "1.00-2.00", "2"]


@pytest.mark.parametrize(("ours", "code"), [(1.0, 0), (1.2, 1)])
def test_rows_reach_every_program_and_a_missed_target_is_the_exit_code(tmp_path, monkeypatch, capsys, ours, code):
    page, called = tmp_path / "page.md", []
    page.write_text("before\n<!-- ratios: made by make bench -->\nold\n<!-- end of ratios -->\nafter\n")
    monkeypatch.setattr(ratios, "PAGE", page)
    monkeypatch.setattr(ratios, "RESULT", tmp_path / "ratios.json")
    monkeypatch.setattr(ratios, "ROWS", {"one": (lambda runs: [row([ours] * runs, [1.0] * runs)], 3)})
    monkeypatch.setattr(bench, "PROGRAMS", {name: lambda name=name: called.append(name) or 0 for name in ("w", "x")})
    assert bench.main(["x"]) == 0 and called == ["x"], "a program that was not named ran"
    assert bench.main([]) == code and called == ["x", "w", "x"]
    assert ("Missed: ours" in capsys.readouterr().err) == bool(code)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert ("**missed**" in text) == bool(code)
    with pytest.raises(SystemExit):
        bench.main(["two"])


def test_a_prediction_is_tried_on_a_point_that_it_has_not_seen():
    straight = {1: 3.0, 10: 21.0, 20: 41.0, 30: 61.0}
    found, off = scaling.predicted("seconds", "s", straight, 20)
    assert abs(off) < 1e-9 and found[2] == "1, 10, 30"
    assert scaling.predicted("seconds", "s", straight | {20: 30.0}, 20)[1] > 0.3


def test_the_pages_show_what_was_measured(tmp_path, monkeypatch):
    pages = {name: tmp_path / f"{name}.md" for name in ("benchmarks", "scaling")}
    for name, path in pages.items():
        path.write_text((paths.ROOT / "docs" / f"{name}.md").read_text())
    monkeypatch.setattr(ratios, "PAGE", pages["benchmarks"])
    monkeypatch.setattr(scaling, "PAGE", pages["scaling"])
    ratios.write_page(json.loads((paths.ROOT / "docs" / "benchmarks" / "ratios.json").read_text()))
    assert scaling.main() == 0
    for name, path in pages.items():
        assert path.read_text() == (paths.ROOT / "docs" / f"{name}.md").read_text(), "run make bench"

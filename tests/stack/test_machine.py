"""What the start page says of a machine that lacks something."""

import sys
from collections import namedtuple

import pytest

from helpers import machine, paths


def lines(capsys):
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_this_machine_is_ready(capsys):
    assert machine.check() is True
    said = lines(capsys)
    assert list(said) == ["Python", "Packages", "Memory", "Disk", "State", "Ports", "Network"]
    assert all(sentence.startswith("good: ") for name, sentence in said.items() if name != "Network")


@pytest.mark.parametrize(
    ("name", "arguments", "remedy"),
    [
        ("Memory", {"memory": 1e6}, "GB, and 1e+06 are needed. In a Kubeflow Notebook or on a hub, ask for more"),
        ("Disk", {"disk": 1e6}, "GB are free, and 1e+06 are needed. Delete something"),
    ],
)
def test_too_little_is_said_with_figures(capsys, name, arguments, remedy):
    assert machine.check(**arguments) is False
    said = lines(capsys)
    assert said.pop(name).startswith("MISSING: ")
    assert not [sentence for sentence in said.values() if sentence.startswith("MISSING")]
    machine.check(**arguments)
    assert remedy in capsys.readouterr().out


def test_the_limit_of_a_container_counts(capsys, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(machine, "_LIMITS", (str(tmp_path / "memory.max"),))
    assert machine.check() is False and "1.1 GB, and 2 are needed" in capsys.readouterr().out
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.check() is True


@pytest.mark.parametrize(("said", "cores"), [("100000 100000", 1), ("50000 100000", 0.5), ("max 100000", None)])
def test_the_processors_of_a_container_count(tmp_path, monkeypatch, said, cores):
    everything = machine.cores()
    assert everything >= 1
    monkeypatch.setattr(machine, "_CORES", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(said + "\n")
    assert machine.cores() == (cores or everything)


def test_half_a_checkout_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert machine.check() is False
    assert "MISSING: there is no requirements.lock" in capsys.readouterr().out


def test_another_python_is_named(capsys, monkeypatch):
    version = namedtuple("version", "major minor")
    monkeypatch.setattr(sys, "version_info", version(3, 10))
    assert machine.check() is False
    assert "MISSING: this is 3.10. Choose the kernel of .venv" in capsys.readouterr().out


def test_packages_of_other_versions_are_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "requirements.lock").write_text(
        "pandas==0.1 \\\n    --hash=sha256:0\nnot-there==1.0\npsutil==9999 ; sys_platform == 'none'\n"
    )
    assert machine.check() is False
    said = capsys.readouterr().out
    assert "pandas (is " in said and ", should be 0.1)" in said and "not-there (is nothing, should be 1.0)" in said
    assert "psutil" not in said


def test_a_state_folder_that_cannot_be_written_is_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("a file in its place")
    monkeypatch.setenv("SERIES_WORK", str(tmp_path / "file"))
    assert machine.check() is False
    assert "Cannot write to the state folder" in capsys.readouterr().out

"""Each fault once, and whether the table can tell a loss from none."""

import re

import pytest
from support import faults
from support.room import Seen


@pytest.fixture(scope="module")
def room():
    with faults.rooms() as room:
        yield room


ONE_OF_EACH = {"MLflow killed during an upload", "kernel and task killed during an upload", "store out of space"}
CASES = [
    pytest.param(fault, marks=pytest.mark.slow if fault.title in ONE_OF_EACH else pytest.mark.nightly, id=fault.title)
    for fault in faults.FAULTS
]


@pytest.mark.parametrize("fault", CASES)
def test_a_plain_rerun_recovers_and_nothing_is_lost(room, fault):
    if reason := fault.missing():
        pytest.skip(reason)
    outcome = faults.try_once(fault, room)
    assert outcome.well, outcome
    assert outcome.seen, "the learner was told nothing, not even that it went on"
    assert "Traceback" not in outcome.seen


def lose_an_object(room, number):
    room.bucket().Object("large").delete()
    return Seen(None, "nothing")


def change_an_object(room, number):
    room.bucket().put_object(Key="large", Body=b"small")
    return Seen(None, "nothing")


def leave_a_run_running(room, number):
    room.client().create_run("0")  # without a tag of ours: nobody may end it
    return Seen(None, "nothing")


def do_nothing(room, number):
    return Seen(room.runs("attributes.run_name = 'svc' and attributes.status = 'FINISHED'")[0].info.run_id, "nothing")


@pytest.mark.parametrize(
    ("make", "lost", "left"),
    [(change_an_object, ["object large"], 0), (lose_an_object, ["object large"], 0), (leave_a_run_running, [], 1)],
)
@pytest.mark.slow
def test_the_table_tells_what_is_lost_left_and_not_recovered(room, make, lost, left):
    fault = faults.Fault("made up", make, rerun=False)
    outcome = faults.try_once(fault, room)
    for run_id in outcome.left:
        room.client().set_terminated(run_id)
    assert (outcome.lost, len(outcome.left)) == (lost, left)
    assert not outcome.recovered and not outcome.well


@pytest.mark.slow
def test_the_command_says_so_and_fails(monkeypatch, capsys, room):
    @faults.contextlib.contextmanager
    def rooms():
        yield room

    monkeypatch.setattr(faults, "rooms", rooms)
    monkeypatch.setattr(
        faults,
        "FAULTS",
        [
            faults.Fault("nothing happens", do_nothing, rerun=False),
            faults.Fault("cannot be made", leave_a_run_running, missing=lambda: "only root may"),
            faults.Fault("a run stays", leave_a_run_running, rerun=False),
        ],
    )
    assert faults.main(["--tries", "1", "nothing", "cannot"]) == 0
    assert faults.main(["--tries", "2"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^cannot be made +not tried: only root may$", said, re.MULTILINE)
    assert re.search(r"^nothing happens +2 +2 +0 +0$", said, re.MULTILINE)
    assert re.search(r"^a run stays +2 +0 +0 +3$", said, re.MULTILINE), (
        said
    )  # one after the first try, two after the second

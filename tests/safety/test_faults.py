"""Each fault once, and whether the table can tell a loss from none."""

import pytest
from support import faults


@pytest.fixture(scope="module")
def room():
    with faults.rooms() as room:
        yield room


ONE_OF_EACH = {"MLflow killed during an upload", "kernel and task killed during an upload"}
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

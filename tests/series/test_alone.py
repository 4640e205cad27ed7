"""Every notebook alone on a fresh stack, and again on what it left there."""

import re

import pytest
from test_orders import NOTEBOOKS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_alone_and_twice_in_a_row(series_copy, name):
    said = series_copy("helpers.series", "--jobs", "1", name, name)
    assert re.findall(r"^(\w+) +done", said, re.MULTILINE) == [name, name]
    executed = {path.stem for path in series_copy.root.glob("work/runs/*/*.ipynb")}
    assert executed == {name, f"{name}-2"}

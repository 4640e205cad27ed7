"""Every notebook alone, on a fresh stack."""

import pytest
from test_orders import NOTEBOOKS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_alone(series_copy, name):
    series_copy("helpers.series", name)
    assert [path.stem for path in series_copy.root.glob("work/runs/*/*.ipynb")] == [name]

"""Names of a learner's own, refused or prefixed."""

import re

import nbformat
import pytest

from helpers import names, paths
from helpers.series import notebooks


def test_without_a_learner_names_stay(monkeypatch):
    for value in (None, "", "  "):
        monkeypatch.delenv("WORKSHOP_LEARNER", raising=False) if value is None else monkeypatch.setenv(
            "WORKSHOP_LEARNER", value
        )
        assert names.own_name("iris") == "iris"
        assert names.own_name("any name / at all") == "any name / at all"


def test_a_learner_has_own_names_however_often_a_cell_runs(monkeypatch):
    monkeypatch.setenv("WORKSHOP_LEARNER", " Anna ")
    assert names.own_name("iris-svc") == "anna-iris-svc"
    assert names.own_name(names.own_name("iris")) == "anna-iris"
    monkeypatch.setenv("WORKSHOP_LEARNER", "ann")
    assert names.own_name("anna-iris") == "ann-anna-iris", "ann wrote into anna's experiment"


@pytest.mark.parametrize("name", ["anna-b", "an na", "../anna", "änna", "a" * 31, "a'b", "iris", "OWN"])
def test_a_learners_name_that_is_not_usable_is_refused(monkeypatch, name):
    monkeypatch.setenv("WORKSHOP_LEARNER", name)
    with pytest.raises(paths.SeriesError, match=re.escape(f"WORKSHOP_LEARNER={name!r} is not usable: ")):
        names.own_name("iris")


@pytest.mark.parametrize("name", ["iris/1", "my iris", "", "iris_1"])
def test_a_name_that_is_not_usable_is_refused_in_a_workshop(monkeypatch, name):
    monkeypatch.setenv("WORKSHOP_LEARNER", "anna")
    with pytest.raises(paths.SeriesError, match="letters, digits and '-'"):
        names.own_name(name)


def test_no_learner_can_be_called_as_the_series_names_begin():
    found_names = {
        re.search(r'^(?:experiment|registered_model)_name = "(.+?)"', cell.source, re.MULTILINE)
        for path in notebooks.numbered()
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    }
    words = {found[1].partition("-")[0] for found in found_names if found}
    assert words and words <= set(names.RESERVED)


def test_each_notebook_that_takes_a_name_uses_the_learners():
    seen = set()
    for path in notebooks.numbered():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        for name in re.findall(r'^(experiment_name|registered_model_name) = "', text, re.MULTILINE):
            assert re.search(
                rf"^{name} = (begin\.experiment|begin\.registered_model|names\.own_name)\(", text, re.MULTILINE
            ), f"{path.stem} does not ask for {name}"
            seen.add(path.stem[:2])
    assert seen == {"02", "03", "05", "06", "07", "08", "09"}

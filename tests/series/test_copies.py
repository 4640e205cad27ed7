"""The reader's copies: made once, never written over, announced when an original is newer, begun anew on request."""

import shutil
import subprocess

import pytest
import test_form as form

from helpers import paths
from helpers.series import copies, notebooks

FIRST = "notebooks/01_save_a_model.ipynb"


@pytest.fixture
def root(tmp_path):
    """A small checkout of two notebooks."""
    for name in (FIRST, "exercises/01_save_a_model.ipynb"):
        (tmp_path / "root" / name).parent.mkdir(parents=True)
        (tmp_path / "root" / name).write_text(f"the original {name}")
    (tmp_path / "root" / "deploy").mkdir()
    return tmp_path / "root"


def test_what_a_reader_changed_is_never_written_over_and_a_newer_original_is_announced(root, tmp_path):
    mine = tmp_path / "my"
    assert copies.bring(mine, root) == []
    (mine / FIRST).write_text("what I tried")
    assert copies.bring(mine, root) == [], "it was made of this very original"
    (root / FIRST).write_text("a newer original")
    (root / "exercises/01_save_a_model.ipynb").write_text("a newer exercise")
    for _ in range(2):
        assert copies.bring(mine, root) == [FIRST]
    assert (mine / FIRST).read_text() == "what I tried"
    assert (mine / "exercises/01_save_a_model.ipynb").read_text() == "a newer exercise", "nobody had changed it"


def test_begin_anew_sets_the_copies_aside(root, tmp_path):
    mine = tmp_path / "my"
    assert copies.begin_anew(mine, root) is None
    (mine / FIRST).write_text("what I tried")
    aside = copies.begin_anew(mine, root)
    assert (aside / FIRST).read_text() == "what I tried"
    assert (mine / FIRST).read_text() == (root / FIRST).read_text()


def test_a_folder_that_cannot_be_written_is_said(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert copies.main(["bring", "--into", str(tmp_path / "file")]) == 1
    assert "Cannot copy the notebooks to" in capsys.readouterr().err


def test_links_and_pictures_of_a_copy_lead_somewhere(tmp_path):
    copies.bring(tmp_path / "my")
    made = [*notebooks.numbered(tmp_path / "my" / "notebooks"), *notebooks.numbered(tmp_path / "my" / "exercises")]
    assert len(made) == len(notebooks.numbered()) + len(notebooks.numbered(paths.ROOT / "exercises"))
    for path in made:
        form.test_links_and_images_resolve(path)


def test_clean_up_leaves_the_copies_alone(root, tmp_path):
    for name in ("Makefile", "my", "work"):
        if name == "Makefile":
            shutil.copy(paths.ROOT / name, root)
        else:
            (root / name).mkdir()
            (root / name / "mine.ipynb").write_text("")
    subprocess.run(["make", "distclean"], cwd=root, check=True, capture_output=True)
    assert (root / "my" / "mine.ipynb").exists() and not (root / "work").exists()

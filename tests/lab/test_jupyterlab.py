"""The series in a real JupyterLab, in a real browser, as `make lab` opens it."""

import os
import secrets
import subprocess
import sys
from urllib.parse import urlsplit

import nbformat
import pytest
from playwright.sync_api import expect
from support import lab
from support.place import wait_for

from helpers.series import notebooks
from helpers.stack.process import free_port
from tools.browser import chromium

# The one with a test of its own below, and the one that needs a cluster, are left out.
OTHERS = [path for path in notebooks.numbered() if path.name[:2] not in ("02", "05", "06")]
NAME, TITLE = "02_track_on_a_server.ipynb", "Track a model on a server"
NEXT, NEXT_TITLE = "03_write_components.ipynb", "Write components"


@pytest.fixture(scope="module")
def jupyterlab(place, tmp_path_factory):
    """JupyterLab as `make lab` opens it, on copies in a folder with a space; its address with the token."""
    home, port, token = tmp_path_factory.mktemp("home"), free_port(), secrets.token_hex(16)
    (home / "jupyter_server_config.py").write_text("c.ServerApp.open_browser = False\n")
    own = {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_PREFER_ENV_PATH": "1"}
    own |= {"JUPYTER_PORT": str(port), "JUPYTER_TOKEN": token, "SERIES_WORK": str(place.work)}
    log = home / "jupyterlab.log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.series.copies", "lab", "--into", place.folder / "my"],
            env=os.environ | own,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(f"http://localhost:{port}/api", process, log)
        yield f"http://localhost:{port}/lab?token={token}"
    finally:
        process.terminate()  # it ends its kernels; the servers of the series end with the place
        process.wait(30)


@pytest.mark.slow
def test_notebook_02_runs_and_both_its_links_lead_to_the_files_of_the_run(jupyterlab, place):
    assert " " in str(place.folder)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, NAME, TITLE)
        notebook = lab.run_all(page, panel, place.folder / "my" / "notebooks" / NAME)
        lab.check_images(panel, notebook)
        lab.check_sections(page, [cell.source for cell in notebook.cells if cell.cell_type == "markdown"])
        expect(page.get_by_text("official Jupyter news")).to_have_count(0)

        direct = lab.follow(panel, "Open the files of this run in the MLflow UI")
        lab.show_mlmodel(direct, "svc")
        through = lab.follow(panel, "the same through Jupyter")
        lab.show_mlmodel(through, "svc")
        port = urlsplit(direct.url).port
        assert urlsplit(through.url).netloc == urlsplit(jupyterlab).netloc
        assert urlsplit(through.url).path == f"/proxy/{port}/"
        assert urlsplit(through.url).fragment == urlsplit(direct.url).fragment

        page.bring_to_front()
        panel.get_by_role("link", name=NEXT_TITLE, exact=True).click()
        lab.shown_notebook(page, NEXT, NEXT_TITLE)


@pytest.mark.nightly
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_every_notebook_runs_and_shows_its_pictures_and_sections(jupyterlab, place, path):
    stored = nbformat.read(path, as_version=4)
    title = stored.cells[0].source.splitlines()[0].removeprefix("# ")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, path.name, title)
        notebook = lab.run_all(page, panel, place.folder / "my" / "notebooks" / path.name)
        lab.check_images(panel, notebook)
        lab.check_sections(page, [cell.source for cell in stored.cells if cell.cell_type == "markdown"])


@pytest.mark.slow
def test_run_of_notebook_05_is_found_in_the_ui_by_clicking(jupyterlab, place):
    name, title = "05_run_the_pipeline.ipynb", "Run the pipeline"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, name, title)
        notebook = lab.run_all(page, panel, place.folder / "my" / "notebooks" / name)
        lab.check_images(panel, notebook)
        (printed,) = [cell.outputs[0].text.strip() for cell in notebook.cells if cell.source.endswith("print(run_id)")]
        runs = lab.follow(panel, "Open the list of runs in the MLflow UI")
        lab.open_run(runs, "svc", printed)
        expect(runs.get_by_text(printed, exact=True).first).to_be_visible(timeout=lab.PATIENCE)
        expect(runs.get_by_text("Finished", exact=True).first).to_be_visible()

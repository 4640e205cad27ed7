"""The series in a real JupyterLab, in a real browser, as `make lab` opens it."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from playwright.sync_api import expect
from support import lab
from support.browser import chromium

# The one with a test of its own below, and the one that needs a cluster, are left out.
OTHERS = [path for path in notebooks.numbered() if path.name[:2] not in ("02", "05", "06")]
NAME, TITLE = "02_track_on_a_server.ipynb", "Track a model on a server"
NEXT, NEXT_TITLE = "03_write_components.ipynb", "Write components"


@pytest.fixture(scope="module")
def jupyterlab(place, tmp_path_factory):
    """JupyterLab on a checkout whose path has a space, with settings of nobody; its address with the token."""
    repository = Path(__file__).parent.parent
    for name in ("notebooks", "deploy", "docs", ".github"):
        shutil.copytree(repository / name, place.root / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(repository / "requirements.lock", place.root)
    home, port, token = tmp_path_factory.mktemp("home"), lab.free_port(), secrets.token_hex(16)
    own = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "JUPYTER", "MLFLOW_", "XDG_", "_SERIES_"))}
    own.pop("NB_PREFIX", None)
    own |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(place.root),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_TOKEN": token,
    }
    log = home / "jupyterlab.log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                "--ServerApp.root_dir=.",
            ],
            cwd=place.root,
            env=own,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        lab.wait_for(f"http://localhost:{port}/api", process, log)
        yield f"http://localhost:{port}/lab?token={token}"
    finally:
        process.terminate()  # it ends its kernels; the servers of the series are the checkout's to end
        process.wait(30)


def test_notebook_02_runs_and_both_its_links_lead_to_the_files_of_the_run(jupyterlab, place):
    assert " " in str(place.root)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, NAME, TITLE)
        notebook = lab.run_all(page, panel, place.root / "notebooks" / NAME)
        lab.check_images(panel, notebook)

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


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_every_notebook_runs_and_shows_its_pictures_and_sections(jupyterlab, place, path):
    stored = nbformat.read(path, as_version=4)
    title = stored.cells[0].source.splitlines()[0].removeprefix("# ")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, path.name, title)
        notebook = lab.run_all(page, panel, place.root / "notebooks" / path.name)
        lab.check_images(panel, notebook)
        lab.check_sections(page, [cell.source for cell in stored.cells if cell.cell_type == "markdown"])


@pytest.mark.slow
def test_run_of_notebook_05_is_found_in_the_ui_by_clicking(jupyterlab, place):
    name, title = "05_run_the_pipeline.ipynb", "Run the pipeline"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{jupyterlab}&reset")
        panel = lab.open_notebook(page, name, title)
        notebook = lab.run_all(page, panel, place.root / "notebooks" / name)
        lab.check_images(panel, notebook)
        (printed,) = [cell.outputs[0].text.strip() for cell in notebook.cells if cell.source.endswith("print(run_id)")]
        runs = lab.follow(panel, "Open the list of runs in the MLflow UI")
        lab.open_run(runs, "svc", printed)
        expect(runs.get_by_text(printed, exact=True).first).to_be_visible(timeout=lab.PATIENCE)
        expect(runs.get_by_text("Finished", exact=True).first).to_be_visible()

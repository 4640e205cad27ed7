"""JupyterLab in a browser, used as a person would: for the tests that follow the series there."""

from __future__ import annotations

from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, expect

# Milliseconds. A first page loads slowly where two tests share two cores.
PATIENCE, NOTEBOOK = 60_000, 240_000


def open_notebook(page: Page, name: str, title: str) -> Locator:
    """Open a notebook from the file browser, by double clicks, and wait for its kernel; return its panel."""
    files = page.locator(".jp-DirListing-content")
    files.get_by_text("notebooks", exact=True).dblclick(timeout=PATIENCE)
    files.get_by_text(name, exact=True).dblclick(timeout=PATIENCE)
    return shown_notebook(page, name, title)


def shown_notebook(page: Page, name: str, title: str) -> Locator:
    """Wait until a notebook is the one shown and has an idle kernel; return its panel."""
    tab = page.locator("#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current")
    expect(tab).to_have_text(name, timeout=PATIENCE)
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(panel.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=PATIENCE)
    # The kernel is named in the panel before it is there; run then, and JupyterLab asks for one.
    expect(page.locator("#jp-bottom-panel")).to_contain_text("| Idle", timeout=PATIENCE)
    return panel


def run_all(page: Page, panel: Locator, file: Path) -> nbformat.NotebookNode:
    """Run every cell by the menu and save; check that nothing failed and nothing was complained about."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    waiting = panel.get_by_text("[*]:", exact=True)
    expect(waiting).not_to_have_count(0)
    expect(waiting).to_have_count(0, timeout=NOTEBOOK)
    before = file.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    for _ in range(100):
        if file.stat().st_mtime_ns != before:
            break
        page.wait_for_timeout(200)
    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        wrong = [out for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"]
        assert not wrong, f"{cell.source}\n{wrong}"
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), f"the kernel did not run every cell: {counts}"
    return notebook


def check_images(panel: Locator, notebook: nbformat.NotebookNode) -> None:
    """Check that each picture of the text is shown."""
    pictures = panel.locator(".jp-RenderedMarkdown img")
    expect(pictures).to_have_count(sum(c.source.count("![") for c in notebook.cells if c.cell_type == "markdown"))
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        expect(picture).not_to_have_js_property("naturalWidth", 0)
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def follow(panel: Locator, text: str) -> Page:
    """Click a link that opens a page of its own; return that page."""
    with panel.page.context.expect_page() as opened:
        panel.get_by_role("link", name=text, exact=True).click()
    return opened.value


def show_runs(page: Page, names: list[str]) -> None:
    """In the MLflow UI, go from a run to the list of its experiment's runs."""
    page.get_by_test_id("experiment-runs-link").click(timeout=PATIENCE)
    for name in names:
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible(timeout=PATIENCE)


def show_mlmodel(page: Page, model_name: str) -> None:
    """In the MLflow UI, on the page of a run's files, open the model's folder and read ``MLmodel``."""
    files = page.locator(".mlflow-artifact-view")
    files.get_by_text(model_name, exact=True).click(timeout=PATIENCE)
    for name in ("MLmodel", "conda.yaml", "model.pkl", "requirements.txt"):
        expect(files.get_by_text(name, exact=True)).to_be_visible(timeout=PATIENCE)
    files.get_by_text("MLmodel", exact=True).click()
    expect(page.get_by_text("loader_module: mlflow.sklearn")).to_be_visible(timeout=PATIENCE)


def check_sections(page: Page, texts: list[str]) -> None:
    """Open the side bar with the contents and look for each section."""
    page.locator('.lm-TabBar-tab[data-id="table-of-contents"]').click()
    contents = page.locator(".jp-TableOfContents-tree")
    for title in [line.removeprefix("## ") for text in texts for line in text.splitlines() if line.startswith("## ")]:
        expect(contents.get_by_text(title.replace("`", ""), exact=True)).to_be_visible(timeout=PATIENCE)


def open_run(page: Page, name: str, run_id: str) -> None:
    """In the MLflow UI, go from the list of runs to one of several that have the same name."""
    links = page.get_by_role("link", name=name, exact=True)
    expect(links.first).to_be_visible(timeout=PATIENCE)
    page.locator(f'a[href*="{run_id}"]').first.click()

"""Take the pictures of the MLflow UI that the notebooks show: ``make pictures``.

The servers, their data and two runs of the pipeline are made for the pictures, in a temporary folder.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from kfp import local
from playwright.sync_api import Page, expect

from helpers import begin, local_pipeline, paths, stack
from helpers.pipelines import mlflow_pipeline
from tools.browser import chromium

IMAGES = paths.NOTEBOOKS / "images"
# Wide enough for the page, small enough to be read where it is shown at 700 pixels.
VIEW = {"width": 1100, "height": 520}
NOT_NEEDED, NEEDED = ["Dataset", "Source", "Models"], ["accuracy", "f1_macro", "kernel"]


def run_pipeline(servers: stack.Stack, kernel: str) -> str:
    """Run the pipeline once and return the id of the run that it leaves in experiment ``iris``."""
    pipeline = mlflow_pipeline.make_pipeline(mlflow_pipeline.from_image)
    with local_pipeline.task_states("pipeline.log"):
        return pipeline(
            kernel=kernel,
            mlflow_tracking_uri=servers.tracking_uri,
            mlflow_s3_endpoint_url=servers.s3_endpoint_url or "",
        ).output


def open_page(page: Page, servers: stack.Stack, path: str) -> None:
    """Open a page of the UI past its mode for generative AI, without the assistant beside it."""
    page.goto(f"{servers.tracking_uri}/#/{path}{'&' if '?' in path else '?'}workflowType=machine_learning")
    close = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    close.click()
    expect(close).to_be_hidden()


def show_runs(page: Page) -> None:
    """Show the columns that tell the runs apart."""
    expect(page.get_by_text("2 matching runs")).to_be_visible()
    page.get_by_role("button", name="Columns", exact=True).click()
    columns = page.get_by_role("dialog")
    for name in NOT_NEEDED + NEEDED:
        columns.get_by_text(name, exact=True).click()
    page.keyboard.press("Escape")
    expect(columns).to_be_hidden()
    for kernel in ("rbf", "linear"):
        expect(page.get_by_role("gridcell", name=kernel, exact=True)).to_be_visible()


def show_mlmodel(page: Page) -> None:
    """Open the model's folder and look at its file ``MLmodel``."""
    files = page.locator(".mlflow-artifact-view")
    files.get_by_text("svc", exact=True).click()
    files.get_by_text("MLmodel", exact=True).click()
    expect(page.get_by_text("python_function")).to_be_visible()


def show_run(page: Page) -> None:
    """Show what a run knows: its metrics and parameters."""
    for name in ("accuracy", "f1_macro", "kernel"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.get_by_text("test_size", exact=True).first.scroll_into_view_if_needed()


def show_comparison(page: Page) -> None:
    """Show two runs side by side, and where they differ."""
    expect(page.get_by_text("Comparing 2 Runs").first).to_be_visible()
    page.get_by_text("Metrics", exact=True).last.scroll_into_view_if_needed()


def save(page: Page, name: str, secrets: list[str]) -> None:
    """Take the picture, after a look for what must not be in it."""
    seen = [secret for secret in secrets if secret in page.inner_text("body")]
    if seen:
        raise SystemExit(f"{name} would show {len(seen)} of this machine's paths, names or keys: no picture taken.")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    picture = before = None
    while picture is None or picture != before:  # until the page has settled
        before, picture = picture, page.screenshot(animations="disabled")
        page.wait_for_timeout(1000)
    (IMAGES / name).write_bytes(picture)
    print(f"{name}: {len(picture) / 1000:.0f} kB")


def main() -> None:
    """Start the servers, make the data, take the pictures, and end and delete the former."""
    private = [str(Path.home()) + os.sep, str(paths.ROOT)]
    for variable in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "_SERIES_"))]:
        del os.environ[variable]
    expect.set_options(timeout=30_000)  # milliseconds
    os.environ |= begin.QUIET | {"LOGNAME": "learner", "USER": "learner"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SERIES_WORK"] = folder
        os.chdir(folder)
        try:
            servers = stack.connect()
            private += [folder, *(value for name, value in os.environ.items() if name.startswith("AWS_"))]
            local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_root")
            run_ids = [run_pipeline(servers, kernel) for kernel in ("rbf", "linear")]
            views = {
                "mlflow_runs.png": ("experiments/1/runs", show_runs),
                "mlflow_run.png": (f"experiments/1/runs/{run_ids[0]}", show_run),
                "mlflow_artifacts.png": (f"experiments/1/runs/{run_ids[0]}/artifacts", show_mlmodel),
                "mlflow_comparison.png": (
                    f"compare-runs?runs={json.dumps(run_ids)}&experiments={json.dumps(['1'])}",
                    show_comparison,
                ),
            }
            with chromium() as browser:
                for name, (path, show) in views.items():
                    page = browser.new_page(viewport=VIEW, color_scheme="light")
                    open_page(page, servers, path)
                    show(page)
                    save(page, name, private)
        finally:
            stack.stop()
            os.chdir(IMAGES)


if __name__ == "__main__":
    main()

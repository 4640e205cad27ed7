"""A Chromium of the system for tests that look at pages."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",  # containers lack what the sandbox needs and have no screen
    # A page of this machine needs nothing from the internet, and neither does the browser.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium(*more_arguments: str) -> Iterator[Browser]:
    """Start the system's Chromium, without a window, and close it at the end.

    Parameters
    ----------
    more_arguments : str
        Command-line switches of Chromium.

    Returns
    -------
    Iterator of playwright.sync_api.Browser
        The browser; pages are made with its ``new_page``.

    Raises
    ------
    RuntimeError
        If there is none on PATH.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise RuntimeError(
            f"Chromium is needed, but none of {', '.join(PROGRAMS)} is on PATH. To install it: make set-up-browser"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *more_arguments])
        try:
            yield browser
        finally:
            browser.close()

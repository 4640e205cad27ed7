"""Tell MLflow which process makes a run; MLflow finds this through the entry point in ``pyproject.toml``."""

from __future__ import annotations

import os

from mlflow.tracking.context.abstract_context import RunContextProvider


class SeriesRunContext(RunContextProvider):
    """Tag the runs that ``mlflow.start_run`` makes in a process connected to the stack of this machine."""

    def in_context(self) -> bool:
        """Tell whether `helpers.stack.connect` chose the server of this process.

        Returns
        -------
        bool
            False with a server of the reader's own: nobody here ends its runs.
        """
        ours = os.environ.get("_SERIES_TRACKING_URI")
        return bool(ours) and os.environ.get("MLFLOW_TRACKING_URI") == ours

    def tags(self) -> dict[str, str]:
        """Return the mark of this process.

        Returns
        -------
        dict of str to str
            One tag, which `helpers.stack.lost_runs` reads.
        """
        from helpers.stack import lost_runs

        return {lost_runs.TAG: lost_runs.process_mark()}

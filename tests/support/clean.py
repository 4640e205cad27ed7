"""The one environment that tests run in: without the settings of whoever runs them."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# What the libraries, the series and the tools around it read. A maintainer has some of it set for another project, or
# for a real cluster, which no test may reach.
PREFIXES = ("AWS_", "JUPYTER", "KF_", "KFP_", "KUBE", "MLFLOW_", "SERIES_", "_SERIES_", "WORKSHOP_")
NAMES = ("NB_PREFIX", "PYTHONPATH")
# Read before ~/.kube: a file that does not exist, so that no client finds the maintainer's cluster.
NO_CLUSTER = {"KUBECONFIG": os.path.join(os.sep, "nowhere", "kubeconfig")}


def clean(environment: MutableMapping[str, str], **more: str) -> dict[str, str]:
    """Return an environment without the settings of its user.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``.
    more : str
        Variables to be set.

    Returns
    -------
    dict of str to str
        For a process that a test starts.
    """
    left = {name: value for name, value in environment.items() if not name.startswith(PREFIXES) and name not in NAMES}
    return left | NO_CLUSTER | more


def hide() -> None:
    """Take the user's settings out of this process, and so out of all that it starts."""
    cleaned = clean(os.environ)
    os.environ.clear()
    os.environ.update(cleaned)

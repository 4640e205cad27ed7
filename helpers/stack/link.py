"""Links to the MLflow UI that the reader's browser can open."""

from __future__ import annotations

import os


def gateway_prefix() -> str | None:
    """Return the path that a gateway gives this Jupyter server, on a machine where nobody has a browser.

    Returns
    -------
    str or None
        ``NB_PREFIX`` inside a Kubeflow Notebook, JupyterHub's prefix on a hub,
        None elsewhere.
    """
    return os.environ.get("NB_PREFIX") or os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or None


def jupyter_base_url() -> str | None:
    """Return the path under which this notebook's Jupyter server is reached.

    Returns
    -------
    str or None
        What `gateway_prefix` says, else the base URL of the server that started
        this kernel, always with a slash at both ends; None outside Jupyter.
    """
    prefix = gateway_prefix()
    if prefix is None:
        from jupyter_server.serverapp import list_running_servers

        parents = {server["pid"]: server["base_url"] for server in list_running_servers()}
        prefix = parents.get(os.getppid())
    return None if prefix is None else f"/{prefix.strip('/')}/".replace("//", "/")

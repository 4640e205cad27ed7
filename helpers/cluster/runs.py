"""What runs on a cluster: followed, told from what the cache gave, and its logs."""

from __future__ import annotations

import os
import re
import time

import requests

from helpers.cluster.api import ClusterError
from helpers.cluster.pipeline import root

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


def follow(client, run_id: str, file: str | os.PathLike, timeout: float = 1800):
    """Print one line per task as it changes its state, until the run has ended.

    Parameters
    ----------
    client : kfp.Client
        The one that started the run.
    run_id : str
        Which run.
    file : str or os.PathLike
        The compiled pipeline, which names the tasks.
    timeout : float
        Seconds to wait at most.

    Returns
    -------
    kfp_server_api.V2beta1Run
        The run as it ended.

    Raises
    ------
    ClusterError
        If it has not ended in time; it runs on.
    """
    begin, said, looks = time.monotonic(), {}, 0
    while True:
        run = client.get_run(run_id)
        for task in task_details(run, file):
            name, state = task.display_name, state_of(run, task).lower()
            if state == said.get(name) or state in ("pending", "runtime_state_unspecified"):
                continue
            if name not in said and state in ("succeeded", "failed", "cached"):  # quicker than the next look at it
                print(f"{name:<32}running")
            print(f"{name:<32}{state}", flush=True)
            said[name] = state
        # A run may end a moment before the details of its last task say so.
        open_ = [task for task in task_details(run, file) if task.state == "RUNNING"]
        looks += run.state in ENDED
        if run.state in ENDED and (not open_ or looks > 10):
            return run
        if time.monotonic() - begin > timeout:
            raise ClusterError(
                f"Run {run_id} is still {run.state} after {timeout:.0f} s and goes on. Follow it in the KFP UI, or end "
                f"it: client.terminate_run({run_id!r})."
            )
        time.sleep(1)


def task_details(run, file: str | os.PathLike) -> list:
    """Return the details of a run's own tasks, in the order in which they started.

    Parameters
    ----------
    run : kfp_server_api.V2beta1Run
        As `kfp.Client.get_run` returns it. The backend lists nodes of the
        workflow engine too, such as drivers and executors.
    file : str or os.PathLike
        The compiled pipeline, which names the tasks.

    Returns
    -------
    list of kfp_server_api.V2beta1PipelineTaskDetail
        One for each task that has begun.
    """
    names = root(file)["dag"]["tasks"]
    details = (run.run_details.task_details if run.run_details else None) or []
    return sorted((task for task in details if task.display_name in names), key=lambda task: str(task.start_time))


def state_of(run, task) -> str:
    """Return the state of a run's own task, and whether it came out of the cache.

    KFP says SUCCEEDED of a cached task. Of what the workflow engine, Argo, would have run in it, its *executor*, there
    is then no attempt: none of the run's nodes has the id that Argo makes of that attempt's name.

    Parameters
    ----------
    run : kfp_server_api.V2beta1Run
        As `kfp.Client.get_run` returns it.
    task : kfp_server_api.V2beta1PipelineTaskDetail
        From `task_details`.

    Returns
    -------
    str
        As the API says it, such as ``"FAILED"``; ``"CACHED"``; ``"PENDING"`` where it says nothing.
    """
    below: dict[str, set[str]] = {}
    for other in run.run_details.task_details:
        below.setdefault(other.display_name, set()).update(child.pod_name for child in other.child_tasks or [])
    workflow = next(iter(below.get(task.display_name, ())), "").rpartition("-")[0]
    executor = f"{workflow}(0).root(0).{task.display_name}(0).executor"
    attempts = {node_id(workflow, f"{executor}({number})") for number in range(3)}
    known = node_id(workflow, executor) in below.get(f"{task.display_name}(0)", ())
    if task.state == "SUCCEEDED" and known and not attempts & below.get("executor", set()):
        return "CACHED"
    return task.state or "PENDING"


def node_id(workflow: str, name: str) -> str:
    """Return the id that Argo gives a node: a hash, FNV-1a of 32 bits, of its name (``NodeID`` in its workflow types)."""
    digest = 0x811C9DC5
    for byte in name.encode():
        digest = (digest ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{workflow}-{digest}"


def failed_nodes(run) -> list[str]:
    """Return what of a run failed, by the ids under which the API keeps their logs.

    Parameters
    ----------
    run : kfp_server_api.V2beta1Run
        As `kfp.Client.get_run` returns it.

    Returns
    -------
    list of str
        Of each task that failed its last attempt; of tasks whose function never began, what was to start them.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    failed = [task for task in details if task.state == "FAILED" and task.child_tasks]
    of_functions = [task.child_tasks[-1].pod_name for task in failed if task.display_name == "executor"]
    older = []  # before 2.17 nothing is wrapped to be tried again
    for task in failed:
        workflow = task.child_tasks[0].pod_name.rpartition("-")[0]
        own = node_id(workflow, f"{workflow}.root.{task.display_name}.executor")
        older += [own] if own in [child.pod_name for child in task.child_tasks] else []
    drivers = [task.child_tasks[-1].pod_name for task in failed if (task.display_name or "").endswith("-driver")]
    return older or of_functions or drivers


def read_log(host: str, bearer: str | None, run_id: str, node: str) -> str:
    """Return the log of a task, from KFP's API: no right in Kubernetes is needed, and the pod may be gone.

    Parameters
    ----------
    host, bearer : str
        As for `check_api`.
    run_id : str
        Which run.
    node : str
        From `failed_nodes`.

    Returns
    -------
    str
        All that was printed.

    Raises
    ------
    ClusterError
        If the API has none; it says so with status 200.
    """
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    workflow, _, number = node.rpartition("-")
    # Some versions look for the pod by its name, in which the template of the pod stands too.
    for name in (node, *(f"{workflow}-{kind}system-container-impl-{number}" for kind in ("", "retry-"))):
        answer = requests.get(f"{host}/apis/v1alpha1/runs/{run_id}/nodes/{name}/log", headers=headers, timeout=60)
        if answer.ok and not answer.text.startswith('{"error_message"'):
            return answer.text
    raise ClusterError(
        f"KFP has no log of {node}; 2.15 on its own may not read any. Kubernetes has it while the pod is there: kubectl "
        f"logs -n NAMESPACE -l pipeline/runid={run_id} -c main --tail=20"
    )


def said_last(log: str) -> str:
    """Return the last exception in a task's log, with all lines of its message."""
    found = re.findall(
        r"^\s*(\w+Error: .*(?:\n(?!\s*(?:Traceback|[IWEF]\d{4} |F main|Error: exit|\[KFP)).+)*)", log, re.MULTILINE
    )
    return found[-1].strip() if found else (log.strip().splitlines() or [""])[-1]

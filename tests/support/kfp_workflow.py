"""A run of the stand-in for the KFP API: a child process with `kfp.local`, shown as the real backend shows a run.

Secrets are played by the environment of this process: a run gets the variables that its YAML takes from secrets.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import yaml

from helpers.cluster.runs import node_id


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def executors(platform: dict) -> dict[str, dict]:
    return platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})


class Workflow:
    """What runs one run: a child process with `kfp.local`, and the nodes that the real backend would show."""

    def __init__(self, run: dict, spec: dict, platform: dict, arguments: dict, folder: Path, slow: float, lock) -> None:
        self.run, self.lock, self.folder = run, lock, folder / run["run_id"]
        self.name = f"{spec['pipelineInfo']['name']}-{secrets.token_hex(3)[:5]}"
        self.job = {"arguments": arguments, "slow": slow}
        self.text = yaml.safe_dump_all([spec] + [platform] * bool(platform)).replace(
            "{{$.pipeline_job_uuid}}", run["run_id"]
        )
        self.secrets = {
            entry["envVar"]
            for executor in executors(platform).values()
            for secret in executor.get("secretAsEnv", [])
            for entry in secret["keyToEnv"]
        }
        self.tasks: dict[str, dict] = {}
        self.begun, self.ended, self.process = now(), None, None
        self.folder.mkdir()
        (self.folder / "pipeline.yaml").write_text(self.text)
        (self.folder / "job.json").write_text(json.dumps(self.job))
        self.set_state("PENDING")
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "MLFLOW_")) or name in self.secrets
        }
        # A session of its own: the tasks are to end with it.
        with open(self.folder / "stderr", "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(self.folder)],
                env=environment | {"TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        threading.Thread(target=self.follow, args=[self.process], daemon=True).start()

    def set_state(self, state: str) -> None:
        self.run["state"] = state
        self.run.setdefault("state_history", []).append({"update_time": now(), "state": state})

    def follow(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            if match := re.fullmatch(r"(.+?)\s*(begun|running|succeeded|failed)\n", line):
                with self.lock:
                    if match[2] in ("begun", "running") and self.run["state"] == "PENDING":
                        self.set_state("RUNNING")
                    if match[2] != "begun":
                        ended = None if match[2] == "running" else now()
                        self.tasks.setdefault(match[1], {"begun": now()}).update(state=match[2].upper(), ended=ended)
        process.stdout.close()
        succeeded = process.wait() == 0
        with self.lock:
            self.ended = self.run["finished_at"] = now()
            for task in self.tasks.values():
                if task["state"] == "RUNNING":
                    task.update(state="FAILED", ended=self.ended)
            self.set_state("SUCCEEDED" if succeeded else "FAILED")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def nodes(self) -> Iterator[tuple[str, str, str, str | None]]:
        """Yield name, state, start and end of all that Argo would make of this run; all of it is to be tried again."""
        state, begun, ended = self.run["state"], self.begun, self.ended
        found = [(self.name, state, begun, ended)]
        if state != "PENDING":
            root, broken = f"{self.name}(0).root", state == "FAILED" and not self.tasks
            found += [
                (f"{root}-driver", "FAILED" if broken else "SUCCEEDED", begun, begun),
                (root, state, begun, ended),
            ]
        for name, task in self.tasks.items():
            path, times = f"{self.name}(0).root(0).{name}", (task["state"], task["begun"], task["ended"])
            found += [(f"{path}-driver", "SUCCEEDED", task["begun"], task["begun"]), (path, *times)]
            found += [(f"{path}(0).executor", *times)]
        for path, *rest in found:
            yield path, *rest
            yield f"{path}(0)", *rest

    def node_id(self, path: str) -> str:
        return node_id(self.name, path)

    def task_details(self) -> list[dict]:
        details, paths = [], [path for path, *_ in self.nodes()]
        for path, state, begun, ended in self.nodes():
            below = [one for one in paths if one == f"{path}(0)" or one.rpartition(".")[0] == path]
            details.append(
                {
                    "run_id": self.run["run_id"],
                    "task_id": str(uuid.uuid5(uuid.NAMESPACE_URL, path)),
                    "display_name": path.rpartition(".")[2],
                    "create_time": self.run["created_at"],
                    "start_time": begun,
                    "end_time": ended or "0001-01-01T00:00:00Z",
                    "state": state,
                    "state_history": [{"update_time": ended or begun, "state": state}],
                }
                | ({"child_tasks": [{"pod_name": self.node_id(one)} for one in below]} if below else {})
            )
        return details

    def log(self, node: str) -> str | None:
        """Return the part of the run's log that is of this node's function; None if there is none."""
        executors = {self.node_id(f"{self.name}(0).root(0).{task}(0).executor(0)"): task for task in self.tasks}
        if node == self.node_id(f"{self.name}(0).root-driver(0)"):
            return "KFP driver\n" if self.tasks else (self.folder / "stderr").read_text()
        if node not in executors:
            return None
        log, task = self.folder / "log", executors[node]
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()) if log.exists() else ""
        parts = re.findall(
            rf"Executing task '{re.escape(task)}'.*?Streamed logs:\n(.*?)"
            rf"(?:[^\n]*Task '{re.escape(task)}' finished|\Z)",
            text,
            re.S,
        )
        end = "F main.go:49] failed to execute component: exit status 1\nError: exit status 1\n"
        return "".join(map(textwrap.dedent, parts)) + end * (self.tasks[task]["state"] == "FAILED")


def execute(folder: Path) -> None:
    """Run the pipeline in a folder, one line on stdout for each change of a task's state; this is the child process."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from kfp import components, local

    from helpers.local_pipeline import task_states

    job, screen = json.loads((folder / "job.json").read_text()), sys.stdout

    class Screen:
        def write(self, line: str) -> None:
            print(line, end="", file=screen, flush=True)
            if line.rstrip().endswith(" running"):
                time.sleep(job["slow"])

        def flush(self) -> None:
            pass

    os.chdir(folder)
    print("run begun", flush=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    with contextlib.redirect_stdout(Screen()), task_states("log"):
        components.load_component_from_file("pipeline.yaml")(**job["arguments"])


if __name__ == "__main__":
    execute(Path(sys.argv[1]))

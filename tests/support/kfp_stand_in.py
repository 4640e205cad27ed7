"""A stand-in for the Kubeflow Pipelines API v2beta1, and for the Kubernetes calls that list pods and give their logs.

It is no Kubeflow: it keeps what it gets in memory, checks each body against the models of `kfp_server_api`, and
executes runs with `kfp.local` in a child process. Where the real backend is odd, it is odd too: a task of a run
has neither `pod_name` nor `error`; `finished_at` of a running run is 1970; a terminated run ends FAILED; a pipeline
with versions cannot be deleted. A task's log is found through the pods with the label `pipeline/runid`. Secrets are
played by the environment of this process: a run gets the variables that its YAML takes from secrets.

``python tests/kfp_stand_in.py [--port 0] [--version 2.4.0] [--token secret] [--namespace mine] ...`` or `serve`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import email
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

USER = "user@example.com"
CODES = {3: 400, 5: 404, 6: 409, 7: 403, 10: 409, 13: 500, 16: 401}  # of gRPC: of HTTP
KINDS = {
    "experiments": ("experiment", "Experiment"),
    "pipelines": ("pipeline", "Pipeline"),
    "versions": ("pipeline_version", "PipelineVersion"),
    "runs": ("run", "Run"),
    "recurringruns": ("recurring_run", "RecurringRun"),
}
# The first backend that knows a field, from the .proto files of each release.
SINCE = {
    ("securityContext", ""): (2, 16),
    ("secretAsEnv", "secretNameParameter"): (2, 5),
    ("secretAsEnv", "optional"): (2, 15),
}
INT64 = {"max_concurrency", "interval_second", "execution_id"}  # a JSON number or a string, says protobuf
TYPES = {
    "STRING": str,
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class Refusal(Exception):
    """What is answered instead of a result."""

    def __init__(self, status: int, body: dict | str) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def refusal(code: int, wrapped: str, message: str) -> Refusal:
    """Make a refusal in the form of the real server: all it says of the error, then the message for users."""
    details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": message}]
    return Refusal(CODES[code], {"code": code, "message": wrapped + message, "details": details})


def invalid(message: str, where: str = "") -> Refusal:
    return refusal(3, f"{where}Invalid input error: ", message)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check(value, kind: str, name: str = "") -> None:
    """Refuse what a model of `kfp_server_api` does not have, in the words of Go's protobuf."""
    if kind.startswith("list["):
        fits = isinstance(value, list)
        for item in value if fits else []:
            check(item, kind[5:-1], name)
    elif kind.startswith("dict("):
        fits = isinstance(value, dict)
        for item in value.values() if fits else []:
            check(item, kind[10:-1], name)
    elif kind == "datetime":
        fits = isinstance(value, str) and re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value
        )
    elif kind == "str":
        fits = isinstance(value, str) or name in INT64 and type(value) is int
    elif kind in ("bool", "int", "float", "object"):
        fits = kind == "object" or type(value).__name__ == kind
    elif hasattr(model := getattr(kfp_server_api.models, kind), "allowable_values"):
        fits = value in model.allowable_values
    else:
        fits = isinstance(value, dict)
        for key in value if fits else ():
            if key not in model.openapi_types:
                raise refusal(3, "", f'proto: (line 1:2): unknown field "{key}"')
            check(value[key], model.openapi_types[key], key)
    if not fits:
        raise refusal(3, "", f"proto: (line 1:2): invalid value for field {name}: {json.dumps(value)}")


def unknown_field(data: dict, message) -> str | None:
    """Return the name of a field that the newest backend does not know."""
    try:
        json_format.ParseDict(data, message)
    except json_format.ParseError as error:
        match = re.search(r'no field named "(\w+)"', str(error))
        return match[1] if match else str(error)


class Workflow:
    """What runs one run: a child process with `kfp.local`, and the pods and tasks that the real backend would show."""

    def __init__(self, stand_in: StandIn, run: dict, spec: dict, platform: dict, arguments: dict) -> None:
        self.stand_in, self.run, self.lock = stand_in, run, stand_in.lock
        self.name = f"{spec['pipelineInfo']['name']}-{secrets.token_hex(3)[:5]}"
        self.folder = stand_in.folder / run["run_id"]
        self.job = {"arguments": arguments, "slow": stand_in.slow, "refused": stand_in.refused(spec, platform)}
        self.text = yaml.safe_dump_all([spec] + [platform] * bool(platform)).replace(
            "{{$.pipeline_job_uuid}}", run["run_id"]
        )
        self.secrets = {
            entry["envVar"]
            for executor in executors(platform).values()
            for secret in executor.get("secretAsEnv", [])
            for entry in secret["keyToEnv"]
        }
        self.start()

    def start(self) -> None:
        self.tasks: dict[str, dict] = {}
        self.begun, self.ended, self.process = now(), None, None
        shutil.rmtree(self.folder, ignore_errors=True)
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
                [sys.executable, __file__, "--execute", str(self.folder)],
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
            if match := re.fullmatch(r"(.+?)\s*(begun|running|refused|succeeded|failed)\n", line):
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

    def nodes(self) -> Iterator[tuple[str, str, str, str, str | None, str]]:
        """Yield path, pod's template, state, start, end and name of all that Argo would make of this run."""
        state = {"CANCELING": "RUNNING"}.get(self.run["state"], self.run["state"])
        yield self.name, "", state, self.begun, self.ended, self.name
        if state != "PENDING":
            broken = state == "FAILED" and not self.tasks
            yield (
                f"{self.name}.root-driver",
                "system-dag-driver",
                "FAILED" if broken else "SUCCEEDED",
                self.begun,
                self.begun,
                "root-driver",
            )
            yield f"{self.name}.root", "", state, self.begun, self.ended, "root"
        for name, task in self.tasks.items():
            path, refused = f"{self.name}.root.{name}", task["state"] == "REFUSED"
            yield (
                f"{path}-driver",
                "system-container-driver",
                "FAILED" if refused else "SUCCEEDED",
                task["begun"],
                task["begun"],
                f"{name}-driver",
            )
            if not refused:
                yield path, "", task["state"], task["begun"], task["ended"], name
                yield (
                    f"{path}.executor",
                    "system-container-impl",
                    task["state"],
                    task["begun"],
                    task["ended"],
                    "executor",
                )

    def task_details(self) -> list[dict]:
        paths = [path for path, *_ in self.nodes()]
        return [
            {
                "run_id": self.run["run_id"],
                "task_id": str(uuid.uuid5(uuid.NAMESPACE_URL, path)),
                "display_name": name,
                "create_time": self.run["created_at"],
                "start_time": begun,
                "end_time": ended or "0001-01-01T00:00:00Z",
                "state": state,
                "child_tasks": [
                    {"pod_name": f"{self.name}-{zlib.crc32(child.encode())}"}
                    for child in paths
                    if child.rpartition(".")[0] == path
                ],
            }
            for path, _, state, begun, ended, name in self.nodes()
        ]

    def pods(self, namespace: str) -> Iterator[dict]:
        for path, template, state, *_ in self.nodes():
            if template:
                yield {
                    "metadata": {
                        "name": f"{self.name}-{template}-{zlib.crc32(path.encode())}",
                        "namespace": namespace,
                        "labels": {"pipeline/runid": self.run["run_id"], "workflows.argoproj.io/workflow": self.name},
                        "annotations": {"workflows.argoproj.io/node-name": path},
                    },
                    "spec": {"containers": [{"name": "main"}, {"name": "wait"}]},
                    "status": {"phase": state.capitalize()},
                }

    def log(self, path: str) -> str:
        """Return the part of the run's log that is of this node's pod."""
        log = self.folder / "log"
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()) if log.exists() else ""
        if path.endswith("root-driver"):
            return "KFP driver\n" if self.tasks else (self.folder / "stderr").read_text()
        task = path.removeprefix(f"{self.name}.root.").removesuffix(".executor").removesuffix("-driver")
        if path.endswith("-driver"):
            return (
                f"F main.go:79] KFP driver: {self.job['refused'].get(task)}\n"
                if self.tasks[task]["state"] == "REFUSED"
                else "KFP driver\n"
            )
        parts = re.findall(
            rf"Executing task '{re.escape(task)}'.*?Streamed logs:\n(.*?)"
            rf"(?:[^\n]*Task '{re.escape(task)}' finished|\Z)",
            text,
            re.S,
        )
        end = "F main.go:49] failed to execute component: exit status 1\nError: exit status 1\n"
        return "".join(map(textwrap.dedent, parts)) + end * (self.tasks[task]["state"] == "FAILED")


def executors(platform: dict) -> dict[str, dict]:
    return platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})


class StandIn:
    """The API's state and its answers; the options are those of `serve`."""

    def __init__(
        self,
        *,
        version: str = "2.17.0",
        token: str | None = None,
        unknown_issuer: bool = False,
        namespaces: list[str] | None = None,
        overrides: dict[str, str] | None = None,
        slow: float = 0,
        trigger: bool = False,
    ) -> None:
        self.version, self.since = version, tuple(map(int, version.split(".")[:2]))
        self.token, self.unknown_issuer, self.namespaces = token, unknown_issuer, namespaces
        self.overrides, self.slow, self.trigger = overrides or {}, slow, trigger
        self.lock, self.folder = threading.RLock(), Path(tempfile.mkdtemp(prefix="kfp_stand_in_"))
        self.kept: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
        self.workflows: dict[str, Workflow] = {}

    def close(self) -> None:
        for workflow in self.workflows.values():
            workflow.stop()
            workflow.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- who may do what ---------------------------------------------------------------------------

    def check_token(self, given: str | None, kubernetes: bool) -> None:
        if self.token is None or given == f"Bearer {self.token}":
            return
        if kubernetes:
            raise Refusal(
                401,
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Failure",
                    "message": "Unauthorized",
                    "reason": "Unauthorized",
                    "code": 401,
                },
            )
        if given and self.unknown_issuer:
            raise Refusal(401, "Jwt issuer is not configured")
        raise refusal(16, "Unauthenticated: ", "Request header error: there is no user identity header.")

    def allow(self, namespace: str | None, verb: str, what: str, where: str) -> str:
        """Return the namespace that counts: none in single-user mode."""
        if self.namespaces is None:
            return ""
        if not namespace:
            article = "An" if what[0] in "aeiou" else "A"
            raise invalid(f"{article} {what} cannot have an empty namespace in multi-user mode", where)
        if namespace not in self.namespaces:
            resource = (
                f"Namespace:{namespace},Verb:{verb},Group:pipelines.kubeflow.org,Resource:{what.replace(' ', '')}s"
            )
            raise refusal(
                7,
                f"{where}PermissionDenied: ",
                f"User '{USER}' is not authorized with reason:  (request: &ResourceAttributes{{{resource}}})",
            )
        return namespace

    # --- pipeline specifications -------------------------------------------------------------------

    def parse(self, documents: list) -> tuple[dict, dict]:
        """Return pipeline and platform specification, or say what is wrong with the first, as the real template does."""
        documents = [document for document in documents if isinstance(document, dict)]
        platform = next((document for document in documents if "platforms" in document), {})
        spec = next((document for document in documents if "platforms" not in document), None)
        if spec is None:
            raise invalid("no pipeline spec is provided")
        if field := unknown_field(spec, pipeline_spec_pb2.PipelineSpec()):
            raise invalid(f'invalid v2 pipeline spec: proto: (line 1:2): unknown field "{field}"')
        if spec.get("schemaVersion") != "2.1.0":
            raise invalid(
                "KFP only supports schema version 2.1.0, but the pipeline spec has version "
                f"{spec.get('schemaVersion', '')}"
            )
        return spec, platform

    def refused(self, spec: dict, platform: dict) -> dict[str, str]:
        """Return for each task whose Kubernetes settings hold a field unknown to this backend what is said then."""
        found = {}
        for label, executor in executors(platform).items():
            fields = [
                (field, "KubernetesExecutorConfig")
                for field in [unknown_field(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())]
                if field
            ]
            for (outer, inner), since in SINCE.items():
                nested = executor.get(outer, []) if inner else [executor]
                if since > self.since and any((inner or outer) in item for item in nested):
                    fields.append((inner or outer, "SecretAsEnv" if inner else "KubernetesExecutorConfig"))
            for component, value in spec.get("components", {}).items() if fields else ():
                if value.get("executorLabel") == label:
                    found |= {
                        task: fields[0]
                        for task, value in spec["root"]["dag"]["tasks"].items()
                        if value["componentRef"]["name"] == component
                    }
        if found and self.since >= (2, 14):  # looks at them when a run is created; before, the task's driver did
            field = next(iter(found.values()))[0]
            raise refusal(
                13,
                "",
                "Internal error: Failed to create a new run: Failed to generate the ExecutionSpec: Failed "
                f'to compile job: failed to unmarshal kubernetes config: proto: (line 1:2): unknown field "{field}"',
            )
        return {
            task: f'failed to unmarshal Kubernetes config, error: unknown field "{field}" in kfp_kubernetes.{message}'
            for task, (field, message) in found.items()
        }

    def arguments(self, spec: dict, given: dict) -> dict:
        where, known = (
            "Failed to create a new run: Failed to generate the ExecutionSpec: invalid pipeline job inputs: ",
            spec["root"].get("inputDefinitions", {}).get("parameters", {}),
        )
        if extra := sorted(set(given) - set(known)):
            raise invalid(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}", where)
        for name, parameter in known.items():
            kind = parameter["parameterType"]
            if name not in given and not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise invalid(
                    f"parameter {name} is not optional, yet has neither default value nor user provided value", where
                )
            if name in given and not (
                isinstance(given[name], TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(given[name], bool))
            ):
                raise invalid(
                    f"input parameter {name} requires type {kind.lower()}, but the parameter value is not of "
                    f"{kind.lower()} value type",
                    where,
                )
        values = {name: given.get(name, parameter.get("defaultValue")) for name, parameter in known.items()}
        services = {
            name: self.overrides[name]
            for name, value in values.items()
            if name in self.overrides and re.search(r"\.svc(\.cluster\.local)?$", urlsplit(str(value)).hostname or "")
        }
        return given | services

    # --- the calls ---------------------------------------------------------------------------------

    def answer(self, method: str, url: str, headers, content: bytes) -> dict | str:
        parts = urlsplit(url)
        path, query = parts.path.removeprefix("/pipeline"), dict(parse_qsl(parts.query))
        self.check_token(headers.get("Authorization"), path.startswith("/api/v1/"))
        with self.lock:
            match [method, *map(unquote, path.strip("/").split("/"))]:
                case ["GET", "api", "v1", "namespaces", namespace, "pods"]:
                    return self.pods(namespace, query)
                case ["GET", "api", "v1", "namespaces", namespace, "pods", pod, "log"]:
                    return self.log(namespace, pod, query)
                case ["GET", "apis", "v2beta1", "healthz"]:
                    return {
                        "commit_sha": "unknown",
                        "tag_name": self.version,
                        "multi_user": self.namespaces is not None,
                        "pipeline_store": "database",
                    }
                case ["POST", "apis", "v2beta1", "pipelines", ("upload" | "upload_version") as what]:
                    return self.upload(query, headers, content, version=what == "upload_version")
                case ["GET", "apis", "v2beta1", "pipelines", "names", name]:
                    found = [
                        item
                        for item in self.kept["pipelines"].values()
                        if item["name"] == name and item.get("namespace", "") == query.get("namespace", "")
                    ]
                    if not found:
                        raise refusal(
                            5,
                            "Failed to get a pipeline by name: ResourceNotFoundError: ",
                            f"Pipeline {name} not found.",
                        )
                    return found[0]
                case ["GET", "apis", "v2beta1", "pipelines", pipeline_id, "versions"]:
                    return self.list("versions", query, pipeline_id=self.get("pipelines", pipeline_id)["pipeline_id"])
                case [("GET" | "DELETE") as method, "apis", "v2beta1", "pipelines", _, "versions", version_id]:
                    item = self.get("versions", version_id)
                    return item if method == "GET" else self.delete("versions", item, query)
                case ["GET", "apis", "v2beta1", kind] if kind in KINDS:
                    return self.list(kind, query)
                case ["POST", "apis", "v2beta1", ("experiments" | "runs" | "recurringruns") as kind]:
                    check(body := json.loads(content), f"V2beta1{KINDS[kind][1]}")
                    return getattr(self, f"create_{KINDS[kind][0]}")(body)
                case ["GET", "apis", "v2beta1", kind, name] if kind in KINDS:
                    return self.get(kind, name)
                case ["DELETE", "apis", "v2beta1", kind, name] if kind in KINDS:
                    return self.delete(kind, self.get(kind, name, "delete"), query)
                case ["POST", "apis", "v2beta1", kind, action] if kind in KINDS and ":" in action:
                    name, _, verb = action.partition(":")
                    return self.act(kind, self.get(kind, name, verb), verb)
        raise Refusal(404, {"code": 5, "message": "Not Found", "details": []})

    def namespace(self, kind: str, item: dict) -> str:
        if kind == "versions":
            item = self.kept["pipelines"][item["pipeline_id"]]
        if kind == "runs":
            item = self.kept["experiments"].get(item["experiment_id"], {})
        return item.get("namespace", "")

    def get(self, kind: str, name: str, verb: str = "get") -> dict:
        what = KINDS[kind][0].replace("_", " ")
        item = self.kept[kind].get(name)
        if item is None:
            raise refusal(
                5, f"Failed to {verb} a {what}: ResourceNotFoundError: ", f"{what.capitalize()} {name} not found."
            )
        namespace = self.namespace(kind, item)
        if namespace or kind not in ("pipelines", "versions"):  # a pipeline without a namespace is shared
            self.allow(namespace, verb, what, f"Failed to {verb} a {what}: Failed to authorize the request: ")
        if kind == "runs":
            return item | {"run_details": {"task_details": self.workflows[name].task_details()}}
        return item

    def list(self, kind: str, query: dict, **equal: str) -> dict:
        what = KINDS[kind][0].replace("_", " ")
        if query.get("experiment_id"):
            equal["experiment_id"] = self.get("experiments", query["experiment_id"])["experiment_id"]
        elif kind == "pipelines" and not query.get("namespace"):
            equal["namespace"] = ""
        elif kind != "versions":
            equal["namespace"] = self.allow(
                query.get("namespace"), "list", what, f"List {what}s failed: Failed to authorize with API: "
            )
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            key, operation = predicate.get("key"), predicate.get("operation")
            if key not in ("display_name", "name", "storage_state", "state") or operation not in (1, "EQUALS"):
                raise invalid(f'no support for filtering on unrecognized field "{key}"', f"List {what}s failed: ")
            equal[key] = predicate.get("stringValue", predicate.get("string_value"))
        items = [
            item
            for item in self.kept[kind].values()
            if all(
                (self.namespace(kind, item) if key == "namespace" else item.get(key)) == value
                for key, value in equal.items()
            )
        ]
        field, _, order = query.get("sort_by", "").partition(" ")
        items.sort(key=lambda item: item.get(field or "created_at", ""), reverse=order == "desc")
        first, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        plural = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}.get(kind, kind)
        found = [self.get(kind, item[f"{KINDS[kind][0]}_id"]) for item in items[first : first + size]]
        answer = {
            plural: found,
            "total_size": len(items),
            "next_page_token": str(first + size) if first + size < len(items) else "",
        }
        return {key: value for key, value in answer.items() if value}  # protobuf sends nothing that is empty

    def keep(self, kind: str, item: dict) -> dict:
        item |= {f"{KINDS[kind][0]}_id": str(uuid.uuid4()), "created_at": now()}
        item = {key: value for key, value in item.items() if value != ""}
        self.kept[kind][item[f"{KINDS[kind][0]}_id"]] = item
        return item

    def create_experiment(self, body: dict) -> dict:
        where = "Failed to create a experiment: "
        namespace = self.allow(
            body.get("namespace"),
            "create",
            "experiment",
            f"{where}Failed to authorize the request: Failed to authorize with API: ",
        )
        if not body.get("display_name"):
            raise invalid("Experiment name cannot be empty", where)
        if any(
            (item["display_name"], item.get("namespace", "")) == (body["display_name"], namespace)
            for item in self.kept["experiments"].values()
        ):
            raise refusal(
                6,
                f"{where}Already exist error: ",
                "Failed to create a new experiment. The name "
                f"{body['display_name']} already exists. Please specify a new name",
            )
        return self.keep(
            "experiments",
            {
                "display_name": body["display_name"],
                "description": body.get("description", ""),
                "namespace": namespace,
                "storage_state": "AVAILABLE",
            },
        )

    def upload(self, query: dict, headers, content: bytes, version: bool) -> dict:
        what = "Failed to create a pipeline version" if version else "Failed to create a pipeline"
        form = email.message_from_bytes(f"Content-Type: {headers.get('Content-Type')}\r\n\r\n".encode() + content)
        files = [part for part in form.walk() if part.get_param("name", header="Content-Disposition") == "uploadfile"]
        try:
            documents = list(yaml.safe_load_all(files[0].get_payload(decode=True)))
        except (IndexError, yaml.YAMLError):
            raise Refusal(400, {"error_message": what, "error_details": what}) from None
        name, namespace = (
            query.get("name") or query.get("display_name") or files[0].get_filename(),
            query.get("namespace", ""),
        )
        try:
            pipeline = self.get("pipelines", query.get("pipelineid", ""), "create") if version else None
            if namespace and not version:
                namespace = self.allow(namespace, "create", "pipeline", "")
        except Refusal:  # the real one keeps the reason to its own log
            raise Refusal(400, {"error_message": what, "error_details": what}) from None
        what += "" if version else " and a pipeline version"
        try:
            spec, platform = self.parse(documents)
        except Refusal as error:  # since 2.17 it says why
            status, text = (400, error.body["details"][0]["message"]) if self.since >= (2, 17) else (500, what)
            raise Refusal(status, {"error_message": text, "error_details": text}) from None
        rivals = [
            item
            for item in self.kept["versions" if version else "pipelines"].values()
            if item["name"] == name
            and (item["pipeline_id"] == pipeline["pipeline_id"] if version else item.get("namespace", "") == namespace)
        ]
        if rivals:
            raise Refusal(409, {"error_message": what, "error_details": what})
        common = {
            "name": name,
            "display_name": query.get("display_name", name),
            "description": query.get("description", ""),
        }
        if not version:
            pipeline = self.keep("pipelines", common | {"namespace": namespace})
        stored = {"pipeline_spec": spec, "platform_spec": platform} if platform else spec
        uploaded = self.keep("versions", common | {"pipeline_id": pipeline["pipeline_id"], "pipeline_spec": stored})
        return uploaded if version else pipeline

    def source(self, body: dict, where: str) -> tuple[dict, dict, dict]:
        """Return what a body refers to: pipeline and platform specification, and the part of the answer that names it."""
        if reference := body.get("pipeline_version_reference"):
            found = [
                item
                for key, item in self.kept["versions"].items()
                if item["pipeline_id"] == reference.get("pipeline_id")
                and reference.get("pipeline_version_id", key) == key
            ]
            if not found:
                raise refusal(
                    13,
                    f"{where}InternalServerError: Failed to create a run due to error fetching manifest: ",
                    f"PipelineVersion {reference.get('pipeline_version_id')} not found.",
                )
            stored = found[-1]["pipeline_spec"]
            named = {
                "pipeline_version_reference": {key: found[-1][key] for key in ("pipeline_id", "pipeline_version_id")}
            }
        elif stored := body.get("pipeline_spec"):
            named = {"pipeline_spec": stored}
        else:
            raise invalid("Failed to fetch a template with an empty pipeline spec manifest", where)
        nested = [stored["pipeline_spec"], stored.get("platform_spec")] if "pipeline_spec" in stored else [stored]
        return *self.parse(nested), named

    def create_run(self, body: dict) -> dict:
        where = "Failed to create a new run: "
        if not body.get("display_name"):
            raise invalid("The run name is empty. Please specify a valid name", where)
        kept = self.prepare("runs", body, where)
        spec, platform, named = self.source(body, where)
        arguments = self.arguments(spec, body.get("runtime_config", {}).get("parameters", {}))
        self.refused(spec, platform)
        run = self.keep(
            "runs",
            kept | named | {"storage_state": "AVAILABLE", "scheduled_at": now(), "finished_at": "1970-01-01T00:00:00Z"},
        )
        self.workflows[run["run_id"]] = Workflow(self, run, spec, platform, arguments)
        return run

    def create_recurring_run(self, body: dict) -> dict:
        where = "Failed to create a recurring run: "
        kept = self.prepare("recurringruns", body, where)
        spec, platform, named = self.source(body, where)
        self.arguments(spec, body.get("runtime_config", {}).get("parameters", {}))
        self.refused(spec, platform)
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        if cron and not cron.startswith("@") and len(cron.split()) not in (5, 6):
            raise invalid(
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: "
                f"Expected 5 to 6 fields, found {len(cron.split())}: {cron}",
                where,
            )
        job = self.keep(
            "recurringruns",
            kept
            | named
            | {
                "status": f"{body.get('mode', 'DISABLE')}D",
                "updated_at": now(),
                "trigger": body.get("trigger", {}),
                "max_concurrency": str(body.get("max_concurrency", 1)),
                "no_catchup": body.get("no_catchup", False),
            },
        )
        if self.trigger and job["status"] == "ENABLED":
            self.create_run(
                {key: job[key] for key in ("experiment_id", "display_name", "runtime_config", *named) if key in job}
                | {"recurring_run_id": job["recurring_run_id"]}
            )
        return job

    def prepare(self, kind: str, body: dict, where: str) -> dict:
        """Return what is kept of a body as it came, with an experiment that exists and may be used."""
        experiment = self.kept["experiments"].get(body.get("experiment_id", ""))
        if experiment is None and (body.get("experiment_id") or self.namespaces is not None):
            raise refusal(5, f"{where}ResourceNotFoundError: ", f"Experiment {body.get('experiment_id')} not found.")
        if experiment is None:
            default = [item for item in self.kept["experiments"].values() if item["display_name"] == "Default"]
            experiment = default[0] if default else self.create_experiment({"display_name": "Default"})
        namespace = self.allow(
            experiment.get("namespace"),
            "create",
            KINDS[kind][0].replace("_", " "),
            f"{where}Failed to create a run due to authorization error: ",
        )
        kept = ("display_name", "description", "runtime_config", "service_account", "mode", "recurring_run_id")
        return (
            {key: body[key] for key in kept if key in body}
            | {"experiment_id": experiment["experiment_id"]}
            | ({"namespace": namespace} if kind == "recurringruns" else {})
        )

    def delete(self, kind: str, item: dict, query: dict) -> dict:
        name = item[f"{KINDS[kind][0]}_id"]
        versions = [key for key, version in self.kept["versions"].items() if version["pipeline_id"] == name]
        if versions and query.get("cascade") != "true":
            raise invalid(
                f"Failed to delete pipeline with id {name} as it has existing pipeline versions (e.g. "
                f"{versions[-1]}). Set cascade=true to delete all versions",
                f"Failed to delete pipeline {name}. Check error stack: ",
            )
        for key in versions:
            del self.kept["versions"][key]
        if kind == "runs":
            self.workflows.pop(name).stop()
        del self.kept[kind][name]
        return {}

    def act(self, kind: str, item: dict, verb: str) -> dict:
        name = item[f"{KINDS[kind][0]}_id"]
        match kind, verb:
            case (("experiments" | "runs"), ("archive" | "unarchive")):
                self.kept[kind][name]["storage_state"] = "ARCHIVED" if verb == "archive" else "AVAILABLE"
                for run in self.kept["runs"].values():
                    if verb == "archive" and run["experiment_id"] == name:
                        run["storage_state"] = "ARCHIVED"
                for job in self.kept["recurringruns"].values():
                    if verb == "archive" and job["experiment_id"] == name:
                        job |= {"mode": "DISABLE", "status": "DISABLED"}
            case "recurringruns", ("enable" | "disable"):
                item |= {"mode": verb.upper(), "status": f"{verb.upper()}D"}
            case "runs", "terminate":
                if item["state"] not in ("PENDING", "RUNNING"):
                    raise invalid(f"Failed to terminate a run {name}. Row not found", "Failed to terminate a run: ")
                self.workflows[name].set_state("CANCELING")
                self.workflows[name].stop()
            case "runs", "retry":
                if item["state"] != "FAILED":
                    raise refusal(
                        10, "Failed to retry a run: BadRequestError: ", "Workflow must be Failed/Error to retry"
                    )
                self.kept["runs"][name]["finished_at"] = "1970-01-01T00:00:00Z"
                self.workflows[name].start()
            case _:
                raise Refusal(404, {"code": 5, "message": "Not Found", "details": []})
        return {}

    # --- Kubernetes --------------------------------------------------------------------------------

    def pods(self, namespace: str, query: dict) -> dict:
        if self.namespaces is not None and namespace not in self.namespaces:
            raise self.status(
                403,
                "Forbidden",
                f'pods is forbidden: User "{USER}" cannot list resource "pods" in API group '
                f'"" in the namespace "{namespace}"',
            )
        wanted = [pair.split("=", 1) for pair in query.get("labelSelector", "").replace("==", "=").split(",") if pair]
        items = [
            pod
            for key, flow in self.workflows.items()
            for pod in flow.pods(self.namespace("runs", self.kept["runs"][key]) or "kubeflow")
            if pod["metadata"]["namespace"] == namespace
        ]
        return {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {},
            "items": [
                pod for pod in items if all(pod["metadata"]["labels"].get(key) == value for key, value in wanted)
            ],
        }

    def log(self, namespace: str, pod: str, query: dict) -> str:
        for item in self.pods(namespace, {})["items"]:
            if item["metadata"]["name"] == pod:
                if query.get("container", "main") != "main":
                    return ""
                workflow = self.workflows[item["metadata"]["labels"]["pipeline/runid"]]
                lines = workflow.log(item["metadata"]["annotations"]["workflows.argoproj.io/node-name"]).splitlines(
                    True
                )
                return "".join(lines[-int(query["tailLines"]) :] if query.get("tailLines") else lines)
        raise self.status(404, "NotFound", f'pods "{pod}" not found')

    @staticmethod
    def status(code: int, reason: str, message: str) -> Refusal:
        return Refusal(
            code,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
            },
        )


@contextlib.contextmanager
def serve(port: int = 0, *, down: bool = False, **options) -> Iterator[str]:
    """Serve on a loopback port and yield the address.

    Parameters
    ----------
    port : int
        0 for any free one.
    down : bool
        Yield an address at which nothing listens.
    options
        `version` that it claims and whose fields it knows; `token` to be shown; `unknown_issuer`: another token gets
        "Jwt issuer is not configured"; `namespaces` that the token may use (multi-user mode); `overrides`: values of
        pipeline parameters, used instead of addresses of cluster services; `slow`: seconds that each task takes
        longer; `trigger`: a recurring run starts one run when it is made.
    """
    if down:
        with socket.create_server(("127.0.0.1", port)) as unused:
            port = unused.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return
    stand_in = StandIn(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, body = 200, stand_in.answer(self.command, self.path, self.headers, content)
            except Refusal as error:
                status, body = error.status, error.body
            except ValueError as error:
                status, body = 400, {"code": 3, "message": f"proto: syntax error: {error}", "details": []}
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        stand_in.close()


def execute(folder: Path) -> None:
    """Run the pipeline in a folder, one line on stdout for each change of a task's state; this is the child process."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from kfp import components, local

    from helpers.local_pipeline import task_states

    job, screen = json.loads((folder / "job.json").read_text()), sys.stdout

    class Screen:
        def write(self, line: str) -> None:
            task, _, state = line.strip().rpartition(" ")
            if state == "running" and task.strip() in job["refused"]:
                print(task.strip(), "refused", file=screen, flush=True)
                os._exit(1)
            print(line, end="", file=screen, flush=True)
            if state == "running":
                time.sleep(job["slow"])

        def flush(self) -> None:
            pass

    os.chdir(folder)
    print("run begun", flush=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root", workspace_root="workspace")
    with contextlib.redirect_stdout(Screen()), task_states("log"):
        components.load_component_from_file("pipeline.yaml")(**job["arguments"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--version", default="2.17.0")
    parser.add_argument("--token")
    parser.add_argument("--unknown-issuer", action="store_true")
    parser.add_argument("--namespace", action="append", dest="namespaces", help="multi-user mode; may be repeated")
    parser.add_argument("--override", action="append", default=[], metavar="PARAMETER=VALUE")
    parser.add_argument("--slow", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--trigger", action="store_true")
    parser.add_argument("--down", action="store_true")
    parser.add_argument("--execute", type=Path, help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if folder := options.pop("execute"):
        return execute(folder)
    options["overrides"] = dict(pair.split("=", 1) for pair in options.pop("override"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.suppress(KeyboardInterrupt), serve(**options) as url:
        print(f"KFP stand-in: {url}", flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()

"""A stand-in for the Kubeflow Pipelines API v2beta1, and for its call that gives a task's log.

It is no Kubeflow: it keeps what it gets in memory, checks each body against the models of `kfp_server_api`, and
executes runs with `kfp_workflow`. Where the real backend is odd, it is odd too: `finished_at` of a running run is
1970; a pipeline with versions cannot be deleted; a log that is not there is answered with status 200.
It knows what notebook 06 asks for, and no more.
"""

from __future__ import annotations

import email
import json
import shutil
import tempfile
import threading
import uuid
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from .kfp_rules import Refusal, arguments, check, check_fields, invalid, parse, refusal
from .kfp_workflow import Workflow, now

USER = "user@example.com"
KINDS = {
    "experiments": ("experiment", "Experiment"),
    "pipelines": ("pipeline", "Pipeline"),
    "versions": ("pipeline_version", "PipelineVersion"),
    "runs": ("run", "Run"),
    "recurringruns": ("recurring_run", "RecurringRun"),
}


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
    ) -> None:
        self.version, self.since = version, tuple(map(int, version.split(".")[:2]))
        self.token, self.unknown_issuer, self.namespaces = token, unknown_issuer, namespaces
        self.overrides, self.slow = overrides or {}, slow
        self.lock, self.folder = threading.RLock(), Path(tempfile.mkdtemp(prefix="kfp_stand_in_"))
        self.kept: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
        self.workflows: dict[str, Workflow] = {}

    def close(self) -> None:
        for workflow in self.workflows.values():
            workflow.stop()
            workflow.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- who may do what ---------------------------------------------------------------------------

    def check_token(self, given: str | None) -> None:
        if self.token is None or given == f"Bearer {self.token}":
            return
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

    # --- the calls ---------------------------------------------------------------------------------

    def answer(self, method: str, url: str, headers, content: bytes) -> dict | str:
        parts = urlsplit(url)
        path, query = parts.path.removeprefix("/pipeline"), dict(parse_qsl(parts.query))
        self.check_token(headers.get("Authorization"))
        with self.lock:
            match [method, *map(unquote, path.strip("/").split("/"))]:
                case ["GET", "apis", "v1alpha1", "runs", run_id, "nodes", node, "log"]:
                    self.get("runs", run_id)
                    lost = "BadRequestError: Failed to read logs for run {}: InternalServerError: Failed to read logs"
                    text = self.workflows[run_id].log(node)
                    return json.dumps({"error_message": lost.format(run_id)}) if text is None else text
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
                        namespace = query.get("namespace", "")
                        raise refusal(
                            5,
                            f"Failed to get a pipeline with name {name} and namespace {namespace}. Check error stack.: "
                            f"Failed to get a pipeline named {name} in namespace {namespace}: ResourceNotFoundError: ",
                            f"Namespace/Pipeline {namespace}/{name} not found",
                        )
                    return found[0]
                case ["GET", "apis", "v2beta1", "pipelines", pipeline_id, "versions"]:
                    return self.list("versions", query, pipeline_id=self.get("pipelines", pipeline_id)["pipeline_id"])
                case [("GET" | "DELETE") as method, "apis", "v2beta1", "pipelines", _, "versions", version_id]:
                    item = self.get("versions", version_id)
                    return item if method == "GET" else self.delete("versions", item)
                case ["GET", "apis", "v2beta1", kind] if kind in KINDS:
                    return self.list(kind, query)
                case ["POST", "apis", "v2beta1", ("experiments" | "runs" | "recurringruns") as kind]:
                    check(body := json.loads(content), f"V2beta1{KINDS[kind][1]}")
                    return getattr(self, f"create_{KINDS[kind][0]}")(body)
                case ["GET", "apis", "v2beta1", kind, name] if kind in KINDS:
                    return self.get(kind, name)
                case ["DELETE", "apis", "v2beta1", kind, name] if kind in KINDS:
                    return self.delete(kind, self.get(kind, name, "delete"))
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
            began = f"Failed to {verb} a {what}: Failed to fetch {what} {name}"
            if kind == "pipelines":
                began = f"Failed to {verb} a {what} {name}. Check error stack: Failed to {verb} a {what} with id {name}"
            raise refusal(5, f"{began}: ResourceNotFoundError: ", f"{what.capitalize()} {name} not found")
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
        plural = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}.get(kind, kind)
        found = [self.get(kind, item[f"{KINDS[kind][0]}_id"]) for item in items]
        return {plural: found, "total_size": len(items)} if found else {}  # protobuf sends nothing that is empty

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
                "last_run_created_at": "1970-01-01T00:00:00Z",
            },
        )

    def upload(self, query: dict, headers, content: bytes, version: bool) -> dict:
        what = "Failed to create a pipeline version" if version else "Failed to create a pipeline"
        form = email.message_from_bytes(f"Content-Type: {headers.get('Content-Type')}\r\n\r\n".encode() + content)
        files = [part for part in form.walk() if part.get_param("name", header="Content-Disposition") == "uploadfile"]
        try:
            documents = list(yaml.safe_load_all(files[0].get_payload(decode=True)))
        except (IndexError, yaml.YAMLError):
            raise Refusal(400, {"error_message": what}) from None
        name, namespace = (
            query.get("name") or query.get("display_name") or files[0].get_filename(),
            query.get("namespace", ""),
        )
        try:
            pipeline = self.get("pipelines", query.get("pipelineid", ""), "create") if version else None
            if namespace and not version:
                namespace = self.allow(namespace, "create", "pipeline", "")
        except Refusal:  # the real one keeps the reason to its own log
            raise Refusal(400, {"error_message": what}) from None
        what += "" if version else " and a pipeline version"
        try:
            spec, platform = parse(documents)
        except Refusal as error:  # since 2.17 it says why
            status, text = (400, error.body["details"][0]["message"]) if self.since >= (2, 17) else (500, what)
            raise Refusal(status, {"error_message": text}) from None
        rivals = [
            item
            for item in self.kept["versions" if version else "pipelines"].values()
            if item["name"] == name
            and (item["pipeline_id"] == pipeline["pipeline_id"] if version else item.get("namespace", "") == namespace)
        ]
        if rivals:
            raise Refusal(409, {"error_message": what})
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
        return *parse(nested), named

    def create_run(self, body: dict) -> dict:
        where = "Failed to create a new run: "
        if not body.get("display_name"):
            raise invalid("The run name is empty. Please specify a valid name", where)
        kept = self.prepare("runs", body, where)
        spec, platform, named = self.source(body, where)
        values = arguments(spec, body.get("runtime_config", {}).get("parameters", {}), self.overrides)
        check_fields(platform, self.since)
        run = self.keep(
            "runs",
            kept | named | {"storage_state": "AVAILABLE", "scheduled_at": now(), "finished_at": "1970-01-01T00:00:00Z"},
        )
        self.workflows[run["run_id"]] = Workflow(run, spec, platform, values, self.folder, self.slow, self.lock)
        return run

    def create_recurring_run(self, body: dict) -> dict:
        where = "Failed to create a recurring run: "
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron", "").split()
        if cron and len(cron) not in (5, 6):
            raise invalid(
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: Expected 5 to "
                f"6 fields, found {len(cron)}: {' '.join(cron)}",
                where.replace(": ", " due to conversion error: "),
            )
        kept = self.prepare("recurringruns", body, where)
        spec, platform, named = self.source(body, where)
        arguments(spec, body.get("runtime_config", {}).get("parameters", {}), self.overrides)
        check_fields(platform, self.since)
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
        return job

    def prepare(self, kind: str, body: dict, where: str) -> dict:
        """Return what is kept of a body as it came, with an experiment that exists and may be used."""
        experiment = self.kept["experiments"].get(body.get("experiment_id", ""))
        if experiment is None and (body.get("experiment_id") or self.namespaces is not None):
            raise refusal(5, f"{where}ResourceNotFoundError: ", f"Experiment {body.get('experiment_id')} not found")
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
            | {"service_account": body.get("service_account") or "pipeline-runner"}
            | ({"namespace": namespace or "kubeflow"} if kind == "recurringruns" else {})
        )

    def delete(self, kind: str, item: dict) -> dict:
        name = item[f"{KINDS[kind][0]}_id"]
        versions = [key for key, version in self.kept["versions"].items() if version["pipeline_id"] == name]
        if versions:
            raise invalid(
                f"Failed to delete pipeline with id {name} as it has existing pipeline versions (e.g. "
                f"{versions[-1]}). Set cascade=true to delete all versions",
                f"Failed to delete pipeline {name}. Check error stack: ",
            )
        if kind == "runs":
            self.workflows.pop(name).stop()
        del self.kept[kind][name]
        return {}

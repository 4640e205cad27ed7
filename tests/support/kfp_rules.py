"""What the stand-in for the KFP API refuses, and in which words: as the models, the protobufs and the real server do."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import kfp_server_api
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from .kfp_workflow import executors

CODES = {3: 400, 5: 404, 6: 409, 7: 403, 10: 409, 13: 500, 16: 401}  # of gRPC: of HTTP
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


def parse(documents: list) -> tuple[dict, dict]:
    """Return pipeline and platform specification, or say what is wrong with the first, as the real template does."""
    documents = [document for document in documents if isinstance(document, dict)]
    platform = next((document for document in documents if "platforms" in document), {})
    spec = next((document for document in documents if "platforms" not in document), None)
    if spec is None:
        raise invalid("no pipeline spec is provided")
    if "pipelineInfo" not in spec:
        raise refusal(3, "", "unknown template format")
    if field := unknown_field(spec, pipeline_spec_pb2.PipelineSpec()):
        raise invalid(f'invalid v2 pipeline spec: proto: (line 1:2): unknown field "{field}"')
    if spec.get("schemaVersion") != "2.1.0":
        raise invalid(
            f"KFP only supports schema version 2.1.0, but the pipeline spec has version {spec.get('schemaVersion', '')}"
        )
    return spec, platform


def check_fields(platform: dict, since: tuple[int, ...]) -> None:
    """Refuse Kubernetes settings that this backend does not know yet, as it does when a run is made."""
    for executor in executors(platform).values():
        field = unknown_field(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        if not field and "securityContext" in executor and since < (2, 16):
            field = "securityContext"
        if field:
            raise refusal(
                13,
                "",
                "Internal error: Failed to create a new run: Failed to generate the ExecutionSpec: Failed "
                f'to compile job: failed to unmarshal kubernetes config: proto: (line 1:2): unknown field "{field}"',
            )


def arguments(spec: dict, given: dict, overrides: dict[str, str]) -> dict:
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
                f"input parameter {name} requires type {kind.lower()}, but the input parameter is not of "
                f"{kind.lower()} value type",
                where,
            )
    values = {name: given.get(name, parameter.get("defaultValue")) for name, parameter in known.items()}
    services = {
        name: overrides[name]
        for name, value in values.items()
        if name in overrides and re.search(r"\.svc(\.cluster\.local)?$", urlsplit(str(value)).hostname or "")
    }
    return given | services

"""The pipeline for your own data and any framework: run it to compile it."""

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Input, InputPath, Metrics, Model, Output, OutputPath

from helpers.pipelines.gate import promote_if_better
from helpers.pipelines.mlflow_pipeline import (
    from_image,
    from_packages,
    give_access,
    open_experiment,
    reach,
    trust_company_ca,
)


def open_table(source, mlflow_s3_endpoint_url, most_bytes):
    """Return a table's local path and its folder, if that is ours: of a file, an object in S3, a dataset logged with MLflow."""
    import json
    import os
    import tempfile

    place, folder = source, None
    try:
        if source.startswith("{"):  # what mlflow.log_input keeps of where a dataset came from
            place = json.loads(source).get("uri", "").removeprefix("file://")
            if not place:
                raise ValueError("it has no uri: log the dataset with a path or s3:// as source")
        if place.startswith("s3://"):
            import boto3

            bucket, _, key = place.removeprefix("s3://").partition("/")
            s3 = boto3.client("s3", endpoint_url=mlflow_s3_endpoint_url or None)
            answer = s3.get_object(Bucket=bucket, Key=key)
            folder, size = tempfile.TemporaryDirectory(), answer["ContentLength"]
            path = os.path.join(folder.name, "table")
            if size <= most_bytes:
                with open(path, "wb") as file:
                    for part in answer["Body"].iter_chunks(1 << 20):
                        file.write(part)
        else:
            if not os.path.isfile(place):
                raise FileNotFoundError("there is no such file")
            with open(place, "rb"):
                path, size = place, os.path.getsize(place)
    except Exception as error:
        raise ValueError(
            f"{source!r} cannot be read: {error}. Name a file that this task can see, or "
            "s3://bucket/key with keys that may read it."
        ) from None
    if size > most_bytes:
        most = most_bytes // 10**6
        raise ValueError(f"{source} has more than {most} MB: take a part of its rows.")
    return path, folder  # which goes with its last reference


def read_cells(path, target_column):
    """Read a CSV file; return its cells as text, and a function that tells where a row is."""
    import csv

    import pyarrow as pa
    from pyarrow import csv as arrow

    with open(path, "rb") as file:
        start = file.readline(10**7)
    if start[:2] in (b"PK", b"\x1f\x8b", b"\xd0\xcf"):
        raise ValueError(" is packed, or an Excel file: save it as CSV or Parquet.")
    if len(start) == 10**7:
        raise ValueError(" has a first line of over 10 MB: is it a table?")
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    csv.field_size_limit(10**7)  # until the names are known: a quote may swallow the whole file
    begin = 1

    def rows(separator, strict=False):  # each with the number of its first line
        with open(path, newline="", encoding=encoding) as file:
            reader, line = csv.reader(file, delimiter=separator, strict=strict), 1
            for row in reader:
                if row and not (line == 1 and row[0].lower().startswith("sep=")):
                    yield line, [value.strip() for value in row]
                line = reader.line_num + 1

    def place_of(number):
        return next(
            f"line {line}" for index, (line, _) in enumerate(rows(separator)) if index > number
        )

    try:
        headers = {mark: next(rows(mark), (0, [])) for mark in ",;\t|"}
        separator = max(
            headers, key=lambda mark: (target_column in headers[mark][1], len(headers[mark][1]))
        )
        header, names = headers[separator]
        if len(names) > 1_000:
            raise ValueError(" has more than 1,000 columns: take those that matter.")
        if not target_column or target_column not in names:
            for mark in headers:
                for (line, row), _ in zip(rows(mark), range(10), strict=False):
                    words = not any(value.replace(".", "").isdigit() for value in row)
                    if target_column and target_column in row and words:
                        raise ValueError(f" has its names in line {line}: delete what is above.")
            listed = ", ".join(name[:100] for name in names[:20])
            raise ValueError(f" has no column {target_column!r}. Name one of: {listed}.")
        body = next((line for line, _ in rows(separator) if line > header), None)
        if body is None:
            raise ValueError(" needs rows below its names.")
        csv.field_size_limit(10**9)
        numbers = [str(number) for number in range(len(names))]
        try:
            cells = arrow.read_csv(
                path,
                arrow.ReadOptions(
                    column_names=numbers, skip_rows=body - 1, encoding=encoding.removesuffix("-sig")
                ),
                arrow.ParseOptions(delimiter=separator, newlines_in_values=True),
                arrow.ConvertOptions(
                    column_types=dict.fromkeys(numbers, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid as error:
            for line, row in rows(separator):
                if len(row) != len(names):
                    raise ValueError(
                        f", line {line}: {len(row)} values for {len(names)} names. Give every "
                        "column a name and every row as many values."
                    ) from None
            if "straddling" in str(error):  # in Arrow's words, it did not fit into a block
                raise ValueError(" has a row of over 1 MB. Does a quote never end?") from None
            raise ValueError(f" is no table: {error}.") from None
        last = cells.slice(len(cells) - 1).to_pylist()[0].values()
        if any("\n" in (value or "") for value in last):  # does a quote swallow the rest?
            for line, _ in rows(separator, strict=True):
                begin = line
    except UnicodeError:
        raise ValueError(" is not in UTF-8: save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f", after line {begin}: {error}. Does a quote never end?") from None
    return names, cells.columns, place_of


def settle_type(values, kind=""):
    """Give a column of text the type that all its values have, or that is asked for."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    number, sign = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", r"[^\w\s]?\s?"
    patterns = {
        "number": number,
        "bool": "(?i)true|false",
        "date": r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?",
    }
    gap = "NA|N/A|#N/A|NaN|nan|null|NULL|None|none"
    comma, grouped = rf"[+-]?\d*,\d+|{number}", r"[+-]?\d{1,3}(,\d{3})+"
    foreign_date = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}( .*)?"
    adorned = rf"{sign}[+-]?\d[\d.,_' ]*\s?({sign}|[A-Z]{{3}})"

    def match(texts, pattern):
        return pc.match_substring_regex(texts, f"^({pattern})$")

    def share(pattern, texts):
        return pc.mean(pc.cast(match(texts, pattern), pa.float64())).as_py()

    def refuse(reason, wrong):
        raise ValueError(reason, pc.index(pc.fill_null(wrong, False), True).as_py())

    bare = pc.utf8_trim_whitespace(values)
    bare = pc.if_else(pc.equal(bare, ""), None, bare)
    if kind == "text":
        return pc.if_else(pc.is_null(bare), None, values), kind
    codes = pc.any(pc.match_substring_regex(bare, r"^[+-]?0\d")).as_py() and kind != "number"
    try:
        numbers = None if codes or kind in ("bool", "date") else pc.cast(bare, pa.float64())
    except pa.ArrowInvalid:
        numbers = None
    if numbers is None or not pc.all(pc.is_finite(numbers)).as_py():
        rest = pc.unique(bare).drop_null()
        rest = rest.filter(pc.invert(match(rest, gap)))
        if not len(rest):
            raise ValueError("has no values: let columns drop it", 0)
        kind = kind or next((name for name in patterns if share(patterns[name], rest) == 1), "")
        if not kind:
            if share(comma, rest) == 1:
                commas = rest.filter(pc.match_substring(rest, ","))
                if len(commas) < len(rest) and pc.any(pc.match_substring(rest, ".")).as_py():
                    refuse("has a comma where others have a point", pc.match_substring(bare, ","))
                if pc.all(match(commas, grouped)).as_py():
                    refuse("may be thousands or decimals", pc.match_substring(bare, ","))
                bare, kind = pc.replace_substring(bare, ",", "."), "number"
            elif share(foreign_date, rest) == 1:
                refuse("is no date as 2026-12-31", match(bare, foreign_date))
            elif share(adorned, rest) == 1:
                refuse("is no plain number", pc.invert(match(bare, number)))
            else:
                most = {name: share(patterns[name], bare) > 0.5 for name in ("number", "date")}
                kind = next((name for name in most if most[name]), "text")
        elif kind == "number" and codes:
            kind = "text"  # 007 is no 7
        if kind == "text":
            return pc.if_else(pc.is_null(bare), None, values), kind
        bare = pc.if_else(match(bare, gap), None, bare)
        if pc.any(wrong := pc.invert(match(bare, patterns[kind]))).as_py():
            refuse(f"is no {kind}", wrong)
        if kind == "bool":
            return pc.equal(pc.utf8_lower(bare), "true"), kind
        if kind == "date":
            dates = pd.to_datetime(bare.to_pandas(), format="ISO8601", errors="coerce", utc=True)
            dates = pa.chunked_array([pa.array(dates.dt.tz_localize(None), pa.timestamp("us"))])
            if pc.any(wrong := pc.xor(pc.is_null(dates), pc.is_null(bare))).as_py():
                refuse("is no day of the calendar", wrong)
            return dates, kind
        numbers = pc.cast(pc.replace_substring_regex(bare, r"^\+", ""), pa.float64())
    if pc.any(wrong := pc.invert(pc.is_finite(numbers))).as_py():
        refuse("is infinite", wrong)
    if pc.any(wrong := pc.greater_equal(pc.abs(numbers), 2.0**53)).as_py():
        wrong = pc.and_(wrong, match(bare, r"[+-]?\d+"))
        if pc.any(wrong).as_py():
            refuse("has too many digits for a number", wrong)
    return numbers, "number"


def read_parquet(path, target_column):
    """Read a Parquet file; return its columns, and a function that tells where a row is."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        size = sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups))
        if size > 2 * 10**9:
            raise ValueError(" has more than 2 GB unpacked: take a part of its rows.")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f" is no whole Parquet file: {error}.") from None
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    table = table.drop_columns(index)  # what pandas keeps beside the columns
    if target_column not in table.column_names:
        listed = ", ".join(name[:100] for name in table.column_names[:20])
        raise ValueError(f" has no column {target_column!r}. Name one of: {listed}.")
    return table.column_names, table.columns, "row {}".format


def settle_typed(column, kind=""):
    """Give a column that has a type one of those that a model takes, or the one asked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    has, types = column.type, pa.types
    if types.is_integer(has) or types.is_floating(has) or types.is_decimal(has):
        found, to = "number", pa.float64()
    elif types.is_date(has) or types.is_timestamp(has):
        found, to = "date", pa.timestamp("us")
    elif types.is_string(has) or types.is_large_string(has) or types.is_string_view(has):
        found, to = "text", pa.string()
    elif types.is_boolean(has):
        found, to = "bool", pa.bool_()
    else:
        raise ValueError(f"is of the type {has}, which no model takes", 0)
    if kind not in ("", found):
        return settle_type(pc.cast(column, pa.string()), kind)
    settled = pc.cast(column, to, safe=False)
    if found == "number":
        settled = pc.if_else(pc.is_nan(settled), None, settled)
        beyond = pc.greater_equal(
            pc.abs(settled), 2.0**53 if types.is_integer(has) else float("inf")
        )
        if pc.any(beyond).as_py():
            raise ValueError("is too large for a number", pc.index(beyond, True).as_py())
    if not pc.count(settled).as_py():
        raise ValueError("has no values: let columns drop it", 0)
    return settled, found


def settle_classes(column):
    """Give classes a type that keeps what they are: whole numbers, true and false, or text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        return column
    if pa.types.is_floating(column.type) and pc.all(pc.equal(pc.round(column), column)).as_py():
        column = pc.cast(column, pa.int64())  # pandas makes 1.0 of 1 where there were gaps
    texts = pc.cast(column, pa.string())
    texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    classes = pc.unique(texts).drop_null()
    bare = pc.utf8_trim_whitespace(classes)
    if len(pc.unique(bare)) < len(classes):
        odd = classes.filter(pc.not_equal(bare, classes))[0]
        row = pc.index(texts, odd).as_py()
        raise ValueError("differs from another class by a space alone", row)
    for pattern, kind in {"0|-?[1-9][0-9]*": pa.int64(), "(?i)true|false": pa.bool_()}.items():
        if pc.all(pc.match_substring_regex(classes, f"^({pattern})$")).as_py():
            try:
                return pc.cast(texts, kind)
            except pa.ArrowInvalid:  # an id beyond all numbers stays a text
                break
    return texts


def load_table(
    source: str,
    target_column: str,
    model_type: str,
    mlflow_s3_endpoint_url: str,
    data: OutputPath("Dataset"),
    target: OutputPath("Dataset"),
    test_data: OutputPath("Dataset"),
    test_target: OutputPath("Dataset"),
    columns: dict = {},
):
    """Read and check a table; write features and targets with types, a fifth of the rows apart."""
    from collections import Counter

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    if model_type not in ("classifier", "regressor"):
        raise ValueError(f"model_type={model_type!r} is unknown: take classifier or regressor.")
    for name, kind in columns.items():
        if kind not in ("text", "number", "bool", "date", "drop"):
            raise ValueError(
                f"columns makes {name!r} {kind!r}: take text, number, bool, date or drop."
            )
    trust_company_ca()
    path, _folder = open_table(source, mlflow_s3_endpoint_url, most_bytes=10**9)
    with open(path, "rb") as file:
        typed = file.read(4) == b"PAR1"
    settle = settle_typed if typed else settle_type
    named, features, kinds = {}, {}, Counter()
    try:
        names, cells, place_of = (read_parquet if typed else read_cells)(path, target_column)
        if unknown := [name for name in columns if name not in names]:
            raise ValueError(f" has no column {unknown[0]!r}, which columns names.")
        for name, column in zip(names, cells, strict=True):
            if not name and not pc.count(column).as_py():
                continue  # a comma at the end of every line makes such a column
            if not name:
                raise ValueError(" has a column without a name, as of an index: name or delete it.")
            if len(name) > 100:
                raise ValueError(" has a column with a name of over 100 letters: shorten it.")
            if name in named:
                raise ValueError(f" has the column {name!r} twice: rename or delete one.")
            named[name] = column
        if sum(map(len, cells)) > 50_000_000:
            raise ValueError(" has more than 50 million cells: take a part of its rows.")
        cells.clear()  # each column goes when it has its type: text is large
        for name in list(named):
            column, kind = named.pop(name), columns.get(name, "")
            of_target = name == target_column
            if kind == "drop" and not of_target:
                continue
            try:
                if of_target and model_type == "classifier":
                    features[name] = settle_classes(column)
                else:
                    features[name], kind = settle(column, "number" if of_target else kind)
                    kinds[kind] += not of_target
                empty = pc.is_null(features[name])
                if of_target and pc.any(empty).as_py():
                    raise ValueError(
                        "is empty: fill or drop that row", pc.index(empty, True).as_py()
                    )
            except ValueError as error:
                reason, row = error.args
                cell = str(column[row])[:40]
                raise ValueError(
                    f", {place_of(row)}: {name!r} {reason}."
                    if column[row].as_py() is None
                    else f", {place_of(row)}: {name!r} is {cell!r}, which {reason}. Mend it"
                    + ("." if of_target else ", or let columns make it text or drop it.")
                ) from None
        truth = features.pop(target_column)
        if not features:
            raise ValueError(f" needs a column besides {target_column!r}.")
        truths = truth.to_pandas()
        counts = truths.value_counts()
        if model_type == "classifier" and len(counts) < 2:
            raise ValueError(
                f": {target_column!r} holds a single class, {str(truths[0])[:40]!r}. There is "
                "nothing to tell apart."
            )
        if model_type == "classifier" and counts.iloc[-1] < 5:
            raise ValueError(
                f": class {str(counts.index[-1])[:40]!r} has {counts.iloc[-1]} of the five rows that "
                f"a split needs. If {target_column!r} is a measurement, model_type is regressor."
            )
        if model_type == "classifier" and len(counts) > 100:
            raise ValueError(f": {target_column!r} has {len(counts)} classes, and 100 is the most.")
        if len(truths) < 10:
            raise ValueError(" needs ten rows for a split.")
    except ValueError as error:
        raise ValueError(f"{source}{error}") from None

    print(f"{len(truths):,} rows;", ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds)))
    gaps = [
        f"{name} {column.null_count:,}" for name, column in features.items() if column.null_count
    ]
    if gaps:
        print("Empty cells:", ", ".join(gaps[:20]) + (" ..." if gaps[20:] else ""))
    if model_type == "classifier":
        print("Classes:", ", ".join(f"{str(name)[:40]} {n:,}" for name, n in counts.items()))
    codes = pd.factorize(truths)[0] if model_type == "classifier" else np.zeros(len(truths))
    held_out, random = np.zeros(len(truths), bool), np.random.default_rng(7)
    for code in np.unique(codes):  # of each class its share
        of_class = np.flatnonzero(codes == code)
        held_out[random.choice(of_class, round(len(of_class) / 5), replace=False)] = True
    rows, answers = pa.table(features), pa.table({"target": truth})
    for part, to, answers_to in ((~held_out, data, target), (held_out, test_data, test_target)):
        parquet.write_table(rows.filter(pa.array(part)), to)
        parquet.write_table(answers.filter(pa.array(part)), answers_to)


def train_model(
    data: InputPath("Dataset"),
    target: InputPath("Dataset"),
    test_data: InputPath("Dataset"),
    test_target: InputPath("Dataset"),
    model_type: str,
    model: Output[Model],
    metrics: Output[Metrics],
    params: dict = {},
):
    """Train gradient-boosted trees, score them on the rows apart, write an MLflow model folder."""
    import json
    from importlib.metadata import version

    import mlflow
    import numpy as np
    import pandas as pd
    from sklearn import ensemble
    from sklearn.compose import make_column_transformer
    from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

    X, X_test = pd.read_parquet(data), pd.read_parquet(test_data)
    y, y_test = pd.read_parquet(target)["target"], pd.read_parquet(test_target)["target"]
    numbers, dates = list(X.select_dtypes("number")), list(X.select_dtypes("datetime"))
    words = [name for name in X if name not in numbers + dates]
    days = make_pipeline(
        FunctionTransformer(np.asarray, kw_args={"dtype": "datetime64[D]"}),
        FunctionTransformer(np.asarray, kw_args={"dtype": "float64"}),
    )
    unseen = {"handle_unknown": "use_encoded_value", "unknown_value": np.nan}
    codes = OrdinalEncoder(**unseen, encoded_missing_value=np.nan, max_categories=254)
    known = {
        "classifier": "HistGradientBoostingClassifier",
        "regressor": "HistGradientBoostingRegressor",
    }
    if model_type not in known:
        raise ValueError(f"model_type={model_type!r} is unknown: take classifier or regressor.")
    estimator = getattr(ensemble, known[model_type])(
        categorical_features=list(range(len(numbers + dates), len(X.columns))), random_state=7
    )
    # A dictionary that travelled as JSON may bring 100 as 100.0.
    params = {
        k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in params.items()
    }
    if unknown := sorted(set(params) - set(estimator.get_params())):
        choices = ", ".join(estimator.get_params())
        raise ValueError(
            f"params: {unknown[0]!r} is unknown to {known[model_type]}: take {choices}."
        )
    trees = make_pipeline(
        make_column_transformer(("passthrough", numbers), (days, dates), (codes, words)),
        estimator.set_params(**params),
    ).fit(X, y)
    answers = trees.predict(X_test)

    # The signature says optional where a column has gaps, so show it a row with each.
    parts = (X, X_test)
    rows = [X.head(1000).dropna().head(1), X.head(1), X_test.head(1)]
    rows = pd.concat(rows + [part[part[name].isna()].head(1) for part in parts for name in part])
    needs = ("pandas", "scikit-learn", "skops")
    mlflow.sklearn.save_model(
        trees,
        model.path,
        serialization_format="skops",  # a list of known types instead of a pickle
        skops_trusted_types=[
            "functools.partial",
            "numpy.asarray",
            "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
            "sklearn.utils.validation.check_array",
        ],
        signature=mlflow.models.infer_signature(rows, pd.Series(answers)),
        input_example=rows.iloc[[0, -1]],
        pip_requirements=[f"mlflow=={mlflow.__version__}"]
        + [f"{name}=={version(name)}" for name in needs],
    )
    told = {"model_type": model_type, "rows": len(X), **params}
    model.metadata["params"] = {name: str(value) for name, value in told.items()}
    if model_type == "classifier":
        metrics.log_metric("accuracy", accuracy_score(y_test, answers))
        metrics.log_metric("f1_macro", f1_score(y_test, answers, average="macro"))
    else:
        metrics.log_metric("r2", r2_score(y_test, answers))
        metrics.log_metric("root_mean_squared_error", root_mean_squared_error(y_test, answers))
    with open(metrics.path, "w") as file:
        json.dump(metrics.metadata, file)  # a cache counts only outputs that have a file


def upload_model_to_mlflow(
    model: Input[Model],
    metrics: Input[Metrics],
    model_name: str,
    experiment_name: str,
    job_id: str,
    mlflow_tracking_uri: str,
    mlflow_s3_endpoint_url: str,
    artifact_location: str = "",
    patience: int = 300,
) -> str:
    """Upload a finished MLflow model folder to a run, unopened; return the run's id."""
    import contextlib
    import os
    import re

    from mlflow import MlflowClient

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", model_name) or ".." in model_name:
        raise ValueError(
            f"model_name={model_name!r} is not usable: take letters, digits, '.', '_' and '-'."
        )
    if "'" in job_id:  # it would end the text in the query below
        raise ValueError(f"job_id={job_id!r} is not usable: no id of KFP has a quote.")
    if not os.path.isfile(os.path.join(model.path, "MLmodel")):
        raise ValueError("The model is no MLflow model folder: save it with mlflow's save_model.")
    for parent, folders, files in os.walk(model.path):
        for name in folders + files:
            if os.path.islink(os.path.join(parent, name)):
                raise ValueError(
                    f"{name} is a link, which could lead anywhere: save a copy instead."
                )

    trust_company_ca()
    if mlflow_s3_endpoint_url:  # without one, the store is Amazon's own
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = mlflow_s3_endpoint_url
    client = MlflowClient(mlflow_tracking_uri)
    tags = {"kfp_job_id": job_id, "model_name": model_name}
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    if os.environ.get("MLFLOW_RUN_ID"):  # Kubeflow's MLflow plugin keeps a run for this task
        tags["mlflow.parentRunId"] = os.environ["MLFLOW_RUN_ID"]

    def upload():
        experiment_id = open_experiment(client, experiment_name, artifact_location)
        runs = client.search_runs([experiment_id], query)  # what an earlier try has begun
        run = runs[0] if runs else client.create_run(experiment_id, run_name=model_name, tags=tags)
        run_id = run.info.run_id
        try:
            client.update_run(run_id, status="RUNNING")
            if "failure" in run.data.tags:
                client.delete_tag(run_id, "failure")
            params = model.metadata.get("params", {})
            for name, value in params.get("struct", params).items():  # a cluster wraps it so
                client.log_param(run_id, name, value)
            for name, value in metrics.metadata.items():
                if isinstance(value, (int, float)):  # a cluster adds texts of its own
                    client.log_metric(run_id, name, value)
            client.log_artifacts(run_id, model.path, model_name)
            files = {f"{model_name}/{name}" for name in next(os.walk(model.path))[2]}
            if not files <= {entry.path for entry in client.list_artifacts(run_id, model_name)}:
                raise OSError("the store does not list every file that was sent to it")
        except BaseException as error:
            with contextlib.suppress(Exception):  # the server may be what failed
                client.set_tag(run_id, "failure", f"{type(error).__name__}: {error}")
                client.set_terminated(run_id, "FAILED")
            store = mlflow_s3_endpoint_url or "Amazon S3"
            raise RuntimeError(
                f"Run {run_id} could not be filled and is FAILED: {error}. "
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of this task, and that they may "
                f"write to {run.info.artifact_uri} at {store}, which may be full."
            ) from error
        client.set_terminated(run_id)
        return run_id

    return reach(upload, mlflow_tracking_uri, patience)


PACKAGES = {
    load_table: ["boto3", "pandas", "pyarrow"],
    train_model: ["mlflow-skinny", "pandas", "pyarrow", "scikit-learn", "skops"],
    upload_model_to_mlflow: ["boto3", "mlflow-skinny"],
    promote_if_better: ["boto3", "mlflow-skinny", "pandas", "pyarrow", "scikit-learn", "skops"],
}


def with_packages(function):
    """Make a component that installs what PACKAGES names for the function."""
    return from_packages(function, PACKAGES)


def make_task(component, function, offers, needed=()):
    """Make a task of a function: hand it those of the offers that it takes, and ask for outputs."""
    made = component(function)
    inputs, outputs = (made.component_spec.inputs or {}), (made.component_spec.outputs or {})
    for name, wanted in inputs.items():
        if name not in offers and not wanted.optional:
            raise ValueError(
                f"{function.__name__} wants {name!r}, which the pipeline does not hand it: give it "
                f"a default, or take it from params. It can have {', '.join(offers)}."
            )
    if missing := [name for name in needed if name not in outputs]:
        raise ValueError(f"{function.__name__} has no output {missing[0]!r}, which others need.")
    return made(**{name: offers[name] for name in inputs if name in offers})


def make_lean_pipeline(
    component,
    train=train_model,
    read=load_table,
    params={},
    registered_model_name="",
    metric="accuracy",
    settings={},
    name="lean-pipeline",
    experiment_name="own-data",
):
    """Wire reading, a training, the lean upload and the gate; settings change a function's task."""
    if unknown := set(settings) - {read, train, upload_model_to_mlflow, promote_if_better}:
        raise ValueError(f"settings: no task of this pipeline runs {unknown.pop().__name__}.")
    default_params, default_name, default_metric = params, registered_model_name, metric
    default_experiment = experiment_name

    @dsl.pipeline(name=name)
    def lean_pipeline(
        source: str,
        target_column: str = "target",
        model_type: str = "classifier",
        columns: dict = {},
        params: dict = default_params,
        model_name: str = "model",
        experiment_name: str = default_experiment,
        registered_model_name: str = default_name,
        metric: str = default_metric,
        mlflow_tracking_uri: str = "http://mlflow-server-service.mlflow-system.svc:5000",
        mlflow_s3_endpoint_url: str = "http://seaweedfs.kubeflow.svc:8333",
        artifact_location: str = "",
        s3_secret_name: str = "mlpipeline-minio-artifact",
        mlflow_secret_name: str = "mlflow-log-in",
        ca_config_map_name: str = "company-ca",
        patience: int = 300,
    ) -> str:
        server = {
            "mlflow_tracking_uri": mlflow_tracking_uri,
            "mlflow_s3_endpoint_url": mlflow_s3_endpoint_url,
            "patience": patience,
        }

        def finish(function, task, memory, access=True):
            task.set_cpu_request("250m").set_cpu_limit("1")
            task.set_memory_request("512Mi").set_memory_limit(memory)
            kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
            if getattr(component, "func", component) is with_packages:
                task.set_env_variable("HOME", "/tmp")  # where a user without a home can install
            if access:
                task.set_caching_options(False)  # what it reads or does lies outside
                give_access(task, mlflow_secret_name, ca_config_map_name, s3_secret_name)
            settings.get(function, lambda task: None)(task)

        about = {"model_type": model_type, "target_column": target_column, "columns": columns}
        files = ("data", "target", "test_data", "test_target")
        table = make_task(component, read, {"source": source, **about, **server}, files)
        finish(read, table, "2Gi")

        rows = {name: table.outputs[name] for name in files}
        training = make_task(
            component, train, {**rows, **about, "params": params}, ("model", "metrics")
        )
        finish(train, training, "2Gi", access=False)

        upload = component(upload_model_to_mlflow)(
            model=training.outputs["model"],
            metrics=training.outputs["metrics"],
            model_name=model_name,
            experiment_name=experiment_name,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            artifact_location=artifact_location,
            **server,
        )
        upload.set_retry(num_retries=1, backoff_duration="5s")
        finish(upload_model_to_mlflow, upload, "1Gi")

        with dsl.If(registered_model_name != "", name="register"):
            gate = component(promote_if_better)(
                test_data=table.outputs["test_data"],
                test_target=table.outputs["test_target"],
                run_id=upload.output,
                model_name=model_name,
                registered_model_name=registered_model_name,
                metric=metric,
                **server,
            )
            gate.set_retry(num_retries=1, backoff_duration="5s")
            finish(promote_if_better, gate, "2Gi")
        return upload.output

    return lean_pipeline


if __name__ == "__main__":
    compiler.Compiler().compile(make_lean_pipeline(from_image), "lean_pipeline.yaml")
    compiler.Compiler().compile(make_lean_pipeline(with_packages), "lean_pipeline_packages.yaml")

"""Rows about large tables: the lean pipeline against plain Python, its memory below a limit, its cost per row."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from helpers import paths
from helpers.pipelines import lean_pipeline
from tools.bench.cgroup import Cgroup
from tools.bench.common import Row, addresses, execute, in_turn, run, servers, source_of, timed

SIZES = (10_000, 100_000, 1_000_000)
LIMIT = 2 * 2**30  # of the tasks that read and train, as the YAML states it
FILES = ("data", "target", "test_data", "test_target")
ARTIFACT = """
from types import SimpleNamespace

model, metrics = (SimpleNamespace(path=name, metadata={}) for name in ("model", "metrics"))
metrics.log_metric = metrics.metadata.__setitem__
"""


def write_table(path: Path, rows: int) -> None:
    """Write forty columns: numbers with gaps, words, a boolean, days and a class."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(7)
    numbers = random.normal(size=(rows, 34)).round(6)
    numbers[random.random(numbers.shape) < 0.02] = np.nan
    table = pd.DataFrame(numbers, columns=[f"n{number}" for number in range(34)])
    for name in ("shop", "town", "colour"):
        table[name] = random.choice([f"{name} {number}" for number in range(100)], rows)
    table["open"] = random.random(rows) < 0.5
    table["day"] = np.datetime64("2020-01-01") + random.integers(0, 2000, rows).astype("timedelta64[D]")
    table["target"] = np.where(table["n0"].fillna(0) + random.normal(size=rows) > 0, "yes", "no")
    table.to_csv(path, index=False)


def scripts(table: Path, where: dict) -> list[str]:
    """Return reading, training and upload as texts of scripts, to be run one after the other or as one."""
    files = {name: name for name in FILES}
    about = {"model_type": "classifier"}
    read = {"source": str(table), "target_column": "target", "mlflow_s3_endpoint_url": ""} | about | files
    upload = {"model_name": "model", "experiment_name": "tables", "job_id": "JOB"} | where
    return [
        f"{source_of(lean_pipeline.load_table)}\nload_table(**{read!r})\n",
        f"{source_of(lean_pipeline.train_model)}{ARTIFACT}\n"
        f"train_model(**{files | about!r}, model=model, metrics=metrics)\n",
        f"{source_of(lean_pipeline.upload_model_to_mlflow)}{ARTIFACT}\n"
        f"upload_model_to_mlflow(model, metrics, **{upload!r})\n",
    ]


def in_processes(texts: list[str], scratch: str) -> None:
    """Run scripts one after the other, in a new folder."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for number, text in enumerate(texts):
            script = Path(folder) / f"{number}.py"
            script.write_text(text.replace("'JOB'", repr(Path(folder).name)))
            run([sys.executable, script], cwd=folder)


def tables(runs: int) -> list[Row]:
    """Compare the lean pipeline with its functions in bare processes, and with one script, on more and more rows."""
    from kfp import components

    loaded = components.load_component_from_file(str(paths.DEPLOY / "lean_pipeline.yaml"))
    rows, seconds = [], {}
    with servers() as found, tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            table = Path(scratch) / f"{size}.csv"
            write_table(table, size)
            texts = scripts(table, addresses(found))
            one = "\n".join(text.replace("from __future__ import annotations", "") for text in texts)

            def ours(table=table) -> float:
                return execute(lambda: loaded(source=str(table), **addresses(found)), Path(scratch))

            def apart(texts=texts) -> float:
                return timed(lambda: in_processes(texts, scratch))

            def together(one=one) -> float:
                return timed(lambda: in_processes([f"from __future__ import annotations\n{one}"], scratch))

            what = f"the lean pipeline, {size:,} rows of 40 columns"
            pairs = in_turn(runs, ours, apart)
            seconds[size] = pairs[0]
            rows.append(Row(what, "three bare processes that do the same", 1.2, *pairs))
        rows.append(Row(what, "one script that does the same", 1.2, *in_turn(runs, ours, together)))
        tenth = [10 * value for value in seconds[SIZES[-2]]]
        rows.append(Row(what, f"ten times {SIZES[-2]:,} rows", 1, seconds[SIZES[-1]], tenth))
        with contextlib.suppress(OSError):  # a limit takes root, and Linux
            for text, task in zip(texts, ("reading", "training"), strict=False):
                group, script = Cgroup(LIMIT), Path(scratch) / f"{task}.py"
                script.write_text(text)  # the reading leaves its files for the training
                join = f"echo $$ > '{group.folder}/cgroup.procs' && exec '{sys.executable}' '{script}'"
                try:
                    run(["sh", "-c", join], cwd=scratch)
                finally:
                    group.close()
                held = f"memory that the {task} of {SIZES[-1]:,} rows holds, limit {LIMIT // 2**30} GiB"
                rows.append(Row(held, "the limit", 1, [group.held / 2**20], [LIMIT / 2**20], unit="MiB"))
    return rows

"""The pipeline compiles, and really runs: on this machine, against a real MLflow server and a real S3 store."""

import os
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import mlflow
import pandas as pd
from kfp import compiler, local

import pipeline
import servers

TABLE, TARGET, KIND = "example.csv", "churn", "classifier"  # yours; KIND may be regressor


class PipelineTest(unittest.TestCase):
    def setUp(self):
        self.enterContext(warnings.catch_warnings(action="ignore"))  # of settings for clusters alone
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.enterContext(mock.patch.object(tempfile, "tempdir", str(self.folder)))

    def test_both_files_compile(self):
        for component, wanted in ((pipeline.from_image, pipeline.IMAGE), (pipeline.with_packages, "pip install")):
            compiler.Compiler().compile(pipeline.make(component), str(self.folder / "pipeline.yaml"))
            self.assertIn(wanted, (self.folder / "pipeline.yaml").read_text())

    def test_a_table_becomes_a_champion_that_answers(self):
        server = self.enterContext(servers.running(self.folder))
        # kfp.local writes this interpreter's path into commands, where a space would break them.
        found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.enterContext(mock.patch.dict(os.environ, {"PATH": found, "TMPDIR": str(self.folder)}))
        self.enterContext(mock.patch.object(sys, "executable", "python3"))
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(self.folder / "root"), workspace_root=str(self.folder / "workspace"))
        table = Path(TABLE).resolve()
        run_id = pipeline.make(pipeline.from_image)(
            source=str(table),
            target_column=TARGET,
            model_type=KIND,
            metric="accuracy" if KIND == "classifier" else "r2",
            mlflow_tracking_uri=server["MLFLOW_TRACKING_URI"],
            mlflow_s3_endpoint_url=server["MLFLOW_S3_ENDPOINT_URL"],
            patience=10,
        ).output
        champion = mlflow.MlflowClient().get_model_version_by_alias(pipeline.NAME, "champion")
        self.assertEqual(champion.run_id, run_id)
        model = mlflow.pyfunc.load_model(f"models:/{pipeline.NAME}@champion")
        answers = model.predict(model.input_example)
        if KIND == "classifier":
            known = set(pd.read_csv(TABLE, dtype=str)[TARGET])
            self.assertLessEqual(set(map(str, answers)), known)
        self.assertEqual(len(answers), len(model.input_example))

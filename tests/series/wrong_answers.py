"""Wrong answers to the exercises: what a reader may well write, and words of the hint that it should get.

Each runs in a kernel that has run the solutions, with the solutions' variables; the files are as the answer before left
them.
"""

_SAVE = 'mlflow.sklearn.save_model(model, "{}", serialization_format="cloudpickle", {})'
_EXTRA = "import shutil\nshutil.rmtree('svc-extra')\n" + _SAVE
_COUNT = "def count_classes(target{}){}:\n    import pandas as pd\n    return {}\ncounter = {}"
_COUNTED = 'int(pd.read_csv(target)["target"].nunique())'
_DATASET = ': InputPath("Dataset")'
_TREE = """
def train_tree(train_data, train_target, max_depth=3, solved=train_tree, **files):
    from pathlib import Path
    solved(train_data, train_target, max_depth={}, **files)
    {}
"""
_PENALTY = """
@dsl.pipeline(name="penalty")
def penalty(kernel: str = "rbf"{}):
    iris = from_image(load_iris_data)()
    from_image(train_from_csv)(
        train_data=iris.outputs["data"], train_target=iris.outputs["target"], kernel=kernel{})
compiler.Compiler().compile(penalty, "{}.yaml")
"""
_STRAIGHT = """
@dsl.pipeline(name="straight")
def straight(uri: str = ""):
    iris = from_image(load_iris_data)()
    training = from_image(train_from_csv)(
        train_data=iris.outputs["data"], train_target=iris.outputs["target"], kernel="rbf")
    from_image(upload_sklearn_model_to_mlflow)(
        **training.outputs, model_name="svc", experiment_name="e", job_id="1",
        mlflow_tracking_uri=uri, mlflow_s3_endpoint_url=uri)
compiler.Compiler().compile(straight, "crossed.yaml")
"""
_RUN = """
mlflow.set_experiment("exercise-{}")
with mlflow.start_run(tags={}) as run:
    {}
run_id = run.info.run_id
"""
_JOB = '{"kfp_job_id": "1"}'
_LOOP = """
@dsl.pipeline(name="loop")
def loop(penalties: List[float] = [0.1, 1.0, 10.0]) -> float:
{}
compiler.Compiler().compile(loop, "loop.yaml")
"""
_STRICT = """
notebook = nbformat.read(paths.NOTEBOOKS / "tasks" / "describe_data.ipynb", as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell("{}"))
nbformat.write(notebook, "strict.ipynb")
"""
_VERSION_OF = "next(v for v in client.search_model_versions(\"name = 'exercise-07'\") if v.run_id == {})"
_ALIAS = f"client.set_registered_model_alias('exercise-07', '{{}}', {_VERSION_OF}.version)"
_ZEROS = """
import http.server, threading
class Zeros(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = b'{"predictions": [' + b", ".join([b"0"] * 150) + b"]}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
fake = http.server.HTTPServer(("127.0.0.1", 0), Zeros)
threading.Thread(target=fake.serve_forever, daemon=True).start()
port = fake.server_port
"""
_OTHER = (
    """
model = {}.fit(*__import__("sklearn.datasets").datasets.load_iris(return_X_y=True, as_frame=True))
mlflow.sklearn.save_model(model, "{}/classifier", serialization_format="{}", pip_requirements=["mlflow"])
"""
    + _RUN
)
_SVC = "__import__('sklearn.svm').svm.SVC()"

WRONG = {
    "01-1": [
        (_EXTRA.format("svc-extra", 'pip_requirements=["dill"]'), "`pip_requirements` replaces the list"),
        (_EXTRA.format("svc-extra", "pip_requirements=pinned"), 'extra_pip_requirements=["dill"]'),
        (_EXTRA.format("svc-other", "pip_requirements=pinned"), 'with `path="svc-extra"`'),
    ],
    "01-2": [
        ("columns = list(reversed(columns))", "input_names()"),
        ("columns = columns[0]", "as a list"),
        ("del columns", "in the variable `columns`"),
        (
            "import shutil\nshutil.rmtree('svc-example')\n"
            + _SAVE.format("svc-example", "signature=signature, pip_requirements=pinned"),
            "as `input_example`",
        ),
    ],
    "01-3": [
        ("missing_columns = lambda path, table: len(table.columns) < 4", "return a list of names"),
        ("missing_columns = lambda path, table: [a for a, b in zip(data, table) if a != b]", "not positions"),
        ("missing_columns = lambda path, table: []", "those of the signature that are not in the table"),
        ("missing_columns = lambda path, table: table['nothing']", "read the whole traceback"),
    ],
    "02-1": [
        (
            _RUN.format(
                "02", "{}", "mlflow.log_param('kernel', 'linear'); mlflow.log_metric('training_accuracy', 99.3)"
            ),
            "a number between 0 and 1",
        ),
        (_RUN.format("02", "{}", "mlflow.log_param('kernel', 'linear')"), "before the `with` block ends"),
        (_RUN.format("02", "{}", "mlflow.log_param('kernel', 'rbf')"), "`kernel` as `linear`"),
        (_RUN.format("elsewhere", "{}", "pass"), "put it into 'exercise-02'"),
        ("run_id = '0' * 32", "take the id from `run.info.run_id`"),
    ],
    "02-2": [
        (
            _RUN.format(
                "02", "{}", "try:\n        SVC(kernel='cubic').fit(data, target)\n    except ValueError:\n        pass"
            )
            + "failed_id = run_id",
            "`try:` comes before `with`",
        ),
        ("failed_id = mlflow.MlflowClient().create_run(experiment.experiment_id).info.run_id", "nobody else does"),
        (
            "try:"
            + _RUN.format("02", "{}", "SVC(kernel='cubic').fit(data, target)").replace("\n", "\n    ")
            + "\nexcept ValueError:\n    failed_id = run.info.run_id",
            "before you call `fit`",
        ),
        ("failed_id = run", "leave the id of the run that failed"),
    ],
    "02-3": [
        (_RUN.format("02", "{}", "mlflow.log_artifact('notes.txt')") + "proxied_id = run_id", "artifact_location="),
        (_RUN.format("02-proxied", "{}", "pass") + "proxied_id = run_id", 'mlflow.log_artifact("notes.txt")'),
        (
            "Path('notes.txt').write_text('')"
            + _RUN.format("02-proxied", "{}", "mlflow.log_artifact('notes.txt')")
            + "proxied_id = run_id",
            "write a line into it",
        ),
    ],
    "03-1": [
        (
            "import pandas as pd\n"
            + _COUNT.replace("    import pandas as pd\n", "").format(
                _DATASET, " -> int", _COUNTED, "from_image(count_classes)"
            ),
            "import inside the function",
        ),
        (_COUNT.format(_DATASET, " -> int", "len(pd.read_csv(target))", "from_image(count_classes)"), "not its rows"),
        (_COUNT.format(_DATASET, "", _COUNTED, "from_image(count_classes)"), "annotate what the function returns"),
        (_COUNT.format(": str", " -> int", _COUNTED, "from_image(count_classes)"), "annotate the parameter"),
        (_COUNT.format(_DATASET, " -> int", _COUNTED, "count_classes"), "`counter = from_image(count_classes)`"),
    ],
    "03-2": [
        ("def train_tree(train_data, train_target, **rest):\n    pass", "write each of the six files"),
        (_TREE.format("9", "pass"), "pass `max_depth` on"),
        (
            _TREE.format(
                "max_depth", "import dill, sklearn.svm; Path(files['model']).write_bytes(dill.dumps(sklearn.svm.SVC()))"
            ),
            "a fitted `DecisionTreeClassifier`",
        ),
        (
            _TREE.format("max_depth", "Path(files['params']).write_text('max_depth is 2')"),
            "write params and metrics as JSON",
        ),
        (_TREE.format("max_depth", "Path(files['metrics']).write_text('{}')"), "into the file `metrics`"),
    ],
    "04-1": [
        (_PENALTY.format(", C: float = 1.0", "", "penalty"), "pass `C=C` to the training"),
        (_PENALTY.format(", C: float = 1.0", ", C=1.0", "penalty"), "pass the pipeline's parameter"),
        (_PENALTY.format("", "", "penalty"), "a parameter `C: float = 1.0`"),
        (_PENALTY.format(", C: float = 2.0", ", C=C", "penalty"), "write `C: float = 1.0`"),
        ("open('penalty.yaml', 'w').write('C: 1.0')", "compiler.Compiler().compile(...)"),
    ],
    "04-2": [
        ("noticed = True", "what does the compiler compare"),
        ("noticed = 'no'", "True or False"),
        (_STRAIGHT, 'conda_env=training.outputs["signature"]'),
        (_PENALTY.format("", "", "crossed"), "keep the upload"),
    ],
    "04-3": [
        ("wires = lambda path: []", "name a `taskOutputArtifact`"),
        ("wires = lambda path: None", "a list of tuples"),
        (
            "wires = lambda path, solved=wires: solved(path) + [('root', 'kernel', 'train-from-csv', 'kernel')]",
            "no parameters",
        ),
        ("wires = lambda path, solved=wires: [wire[::-1] for wire in solved(path)]", "go through the tasks"),
    ],
    "05-1": [
        (_RUN.format("05", "{}", "mlflow.log_param('kernel', 'poly')"), "take the id from its `.output`"),
        (_RUN.format("05", _JOB, "mlflow.log_param('kernel', 'rbf')"), '`kernel="poly"`'),
        (_RUN.format("05", _JOB, "mlflow.log_param('kernel', 'poly')"), "leave `model_name`"),
        ("run_id = 7", "leave the id that the pipeline put out"),
    ],
    "05-2": [
        ("refused_by = 'train-from-csv'", "begins with the name of the task"),
        ("said = 'it failed'", "keep `str(error)`"),
        (_RUN.format("05", "{'model_name': 'a/b'}", "pass"), "delete it"),
        ("open('refused.log', 'w').close()", '`model_name="a/b"`'),
    ],
    "05-3": [
        (
            "def stored_bytes(run_id):\n    files = mlflow.MlflowClient().list_artifacts(run_id, 'svc')\n    return len(files)",
            "add up the `Size`",
        ),
        (
            "def stored_bytes(run_id):\n    s3 = boto3.client('s3', endpoint_url=servers.s3_endpoint_url)\n"
            "    return sum(entry['Size'] for entry in s3.list_objects_v2(Bucket='mlflow')['Contents'])",
            "none of its neighbours",
        ),
        ("stored_bytes = lambda run_id: '4 kB'", "return a whole number"),
    ],
    "07-1": [
        (_ALIAS.format("baseline", "second"), "with `first` as its run"),
        (
            "version = client.create_model_version('exercise-07', f'runs:/{first}', first)\n"
            "client.set_registered_model_alias('exercise-07', 'baseline', version.version)",
            "the folder: `svc`",
        ),
        (
            "client.delete_registered_model_alias('exercise-07', 'baseline')\n" + _ALIAS.format("Base", "first"),
            "set_registered_model_alias",
        ),
    ],
    "07-2": [
        ("decision = 'the second is better'", "keep what `promote_if_better` returns"),
        (_ALIAS.format("champion", "first"), "leave the alias to the gate"),
        ("client.delete_registered_model_alias('exercise-07', 'champion')", "offer both runs"),
        (
            _ALIAS.format("champion", "second") + f"\nfound = {_VERSION_OF.format('second')}\n"
            "client.delete_model_version_tag('exercise-07', found.version, 'held_out_accuracy')",
            "call `promote_if_better` with `run_id=second`",
        ),
    ],
    "07-3": [
        ("port = serving.free_port()", "start the server with `serving.start`"),
        ("port = int(servers.tracking_uri.rpartition(':')[2])", "no other server's"),
        (_ZEROS, "serve `models:/exercise-07@champion`"),
        ("port = str(port)", "in `port`"),
    ],
    "08-1": [
        ("pick = lambda candidates, scores: candidates[scores.index(max(scores))]", "let the smaller C decide"),
        ("pick = lambda candidates, scores: min(candidates, key=lambda c: c['C'])", "compare scores first"),
        ("pick = lambda candidates, scores: scores.index(max(scores))", "return one item"),
    ],
    "08-2": [
        ("best = 2.0", "gather with `dsl.Collected"),
        (
            _LOOP.format(
                "    with dsl.ParallelFor(penalties) as penalty:\n        scoring = from_image(score)(C=penalty)\n"
                "    return from_image(largest)(scores=dsl.Collected(scoring.output)).output"
            ),
            "parallelism=2",
        ),
        (_LOOP.format("    return from_image(largest)(scores=penalties).output"), "dsl.ParallelFor(penalties"),
    ],
    "08-3": [
        (_STRICT.format("y.value_counts()"), "is below five"),
        (_STRICT.format("assert y.value_counts().min() > 5"), "refuse fewer than five"),
        ("__import__('os').unlink('strict.ipynb')", "with one more cell to `strict.ipynb`"),
    ],
    "09-1": [
        ("messy.to_csv('clean.csv', index=False)", "mend what the message names"),
        ("table.drop(index=0).to_csv('clean.csv', index=False)", "and no others"),
        ("table.to_csv('clean.csv')", "write no index"),
        ("table.assign(colour=0).to_csv('clean.csv', index=False)", "map each colour"),
        ("table.assign(height=1).to_csv('clean.csv', index=False)", "change nothing in the rows"),
    ],
    "09-2": [
        (
            "def encode(table, solved=encode):\n    new, encoding = solved(table)\n"
            "    table['colour'] = new['colour']\n    return new, encoding",
            "work on `table.copy()`",
        ),
        ("encode = lambda table, solved=encode: solved(table)[0]", "the new table and the encoding"),
        (
            "encode = lambda table: (table.assign(colour=0, shop=0), {'colour': {'red': 0, 'blue': 0}, 'shop': {}})",
            "a number of its own",
        ),
        (
            "encode = lambda table, solved=encode: (table.copy(), solved(table)[1])",
            "map the column with the dictionary",
        ),
        ("encode = lambda table, solved=encode: (solved(table)[0], {})", "each column of text to a dictionary"),
    ],
    "09-3": [
        (_RUN.format("09", "{}", "mlflow.log_metric('accuracy', 1)"), "take the id from its `.output`"),
        (
            _OTHER.format(_SVC, "pickled", "cloudpickle", "09", _JOB, "mlflow.log_artifact('pickled/classifier')"),
            'serialization_format="skops"',
        ),
        (
            _OTHER.format(_SVC, "svc", "skops", "09", _JOB, "mlflow.log_artifact('svc/classifier')"),
            'metrics.log_metric("accuracy", ...)',
        ),
        (
            _OTHER.format(
                _SVC,
                "again",
                "skops",
                "09",
                _JOB,
                "mlflow.log_artifact('again/classifier'); mlflow.log_metric('accuracy', 1)",
            ),
            "hand your own training",
        ),
    ],
}

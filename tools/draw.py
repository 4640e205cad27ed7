"""Draw the diagrams of the series: ``python notebooks/images/draw.py`` rewrites the SVG files beside it.

One language for all: a box is a program, a sheet is files, a drum is a store, a pill is a value.
A dashed border is what you rewrite for the next model, a dotted arrow is another possible way.
"""

from functools import partial
from html import escape
from pathlib import Path

WIDTH, INK, SOFT, GREY = 760, "#1c2430", "#485364", "#5b6879"
COLOURS = {  # kind: inside, border
    "program": ("#e8f0fb", "#3f6fae"),
    "server": ("#e6f4ec", "#2f7d54"),
    "rewrite": ("#fff1dc", "#a85b00"),
    "files": ("#ffffff", "#6b7686"),
    "value": ("#f1edf9", "#6b53a8"),
    "card": ("#fcfcfa", "#c3cad3"),
}


def text(x, y, words, size=13, weight="normal", color=SOFT, anchor="middle"):
    """Write one line; ``y`` is its baseline."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def note(y, *words):
    """Write what to see in the picture, at the left."""
    return "".join(text(28, y + 20 * i, line, 14, anchor="start") for i, line in enumerate(words))


def shape(kind, outline, x, y, words, bold, corner=None, number=""):
    """Draw an outline; words around its middle, ``bold`` of them in bold; a notebook's number on its corner."""
    dash = 'stroke-dasharray="7 5"' if kind == "rewrite" else ""
    drawn = f'<path d="{outline}" fill="{COLOURS[kind][0]}" stroke="{COLOURS[kind][1]}" stroke-width="2" {dash}/>'
    for i, line in enumerate(words):
        drawn += text(x, y + 5 + 19 * (i - (len(words) - 1) / 2), line, *((14, "bold", INK) if i < bold else ()))
    if number:
        drawn += f'<circle cx="{corner[0] + 4}" cy="{corner[1] + 2:g}" r="15" fill="{INK}"/>'
        drawn += text(corner[0] + 4, corner[1] + 7, number, 14, "bold", "#ffffff")
    return drawn


def box(x, y, w, h, *words, kind="program", keys=False, bold=1, number=""):
    """Draw a program; that it is rewritten, or needs keys, is said in words as well."""
    middle, foot, r = x + w / 2, y + h - 25 * keys, 15 if kind == "value" else 9
    outline = (
        f"M{x + r},{y}h{w - 2 * r}a{r},{r} 0 0 1 {r},{r}v{h - 2 * r}a{r},{r} 0 0 1 {-r},{r}"
        f"h{2 * r - w}a{r},{r} 0 0 1 {-r},{-r}v{2 * r - h}a{r},{r} 0 0 1 {r},{-r}z"
    )
    drawn = shape(kind, outline, middle, (y + foot - 24 * (kind == "rewrite")) / 2, words, bold, (x, y), number)
    if kind == "rewrite":
        drawn += text(middle, foot - 11, "rewrite per model", 13, "bold", COLOURS[kind][1])
    if keys:
        drawn += (
            f'<path d="M{middle - 21:g},{foot + 7}a5,5 0 1 0 -10,0a5,5 0 1 0 10,0h16v6m-6,-6v5" fill="none" '
            f'stroke="{INK}" stroke-width="2.2"/>' + text(middle + 2, foot + 12, "keys", 13, "bold", INK, "start")
        )
    return drawn


pill = partial(box, kind="value", bold=0)  # values


def files(x, y, w, *words, bold=0, number="", h=0):
    """Draw a sheet with a folded corner, ``y`` its middle."""
    h = h or 19 * len(words) + 18
    outline = f"M{x},{y - h / 2:g}h{w - 12}l12,12v{h - 12}h{-w}zm{w - 12},0v12h12"
    return shape("files", outline, x + w / 2, y + 2, words, bold, (x, y - h / 2), number)


def drum(x, y, w, h, *words):
    """Draw a store."""
    arc = f"a{w / 2:g},10 0 0 0"
    outline = f"M{x},{y + 10}v{h - 20}{arc} {w},0v{20 - h}{arc} {-w},0{arc} {w},0"
    return shape("server", outline, x + w / 2, y + h / 2 + 6, words, 1)


def arrow(*points, dotted=False):
    """Draw an arrow through points; its last piece is level or upright."""
    (a, b), (x, y) = points[-2:]
    dx, dy = (x > a) - (x < a), (y > b) - (y < b)
    style = '3" stroke-linecap="round" stroke-dasharray="0.1 6"' if dotted else '2"'
    return (
        f'<path d="M{"L".join(f"{x},{y}" for x, y in points)}" fill="none" stroke="{GREY}" stroke-width="{style}/>'
        f'<path d="M{x},{y}l{-9 * dx - 5 * dy},{-9 * dy - 5 * dx}l{10 * dy},{10 * dx}z" fill="{GREY}"/>'
    )


def level(y, *ends):
    """Draw level arrows, each from one end to the next."""
    return "".join(arrow((a, y), (b, y)) for a, b in zip(ends[::2], ends[1::2], strict=True))


LOAD = (box(28, 100, 130, 100, "load_iris_data"), level(150, 158, 179, 245, 266), files(179, 150, 66, "data", "target"))
SIX = (
    files(428, 150, 108, "model", "input_example", "signature", "conda_env", "params", "metrics"),
    level(150, 410, 428, 536, 552),
)
UPLOAD = ("upload_sklearn_", "model_to_mlflow")
STORE = (arrow((644, 225), (644, 282)), drum(552, 282, 184, 80, "MLflow and S3 store"))

FIGURES = {
    "series": (
        "From a notebook to a service",
        516,
        "By hand: train an SVC (notebook 01), save it in MLflow's format (01), log it to a server with an S3 store (02). As a "
        "pipeline: components (03), a YAML file (04), a run on this machine or Kubeflow (05, 06), its run and model in MLflow (05). As a service: a gate (07) makes the better model "
        "the champion (07), which an API serves (07); a sweep (08) and your own data (09) go into the components.",
        note(70, "By hand"),
        level(131, 178, 218, 360, 400, 550, 590),
        level(291, 178, 218, 360, 400, 550, 590),
        box(28, 92, 150, 78, "Train an SVC", "on iris, in a notebook", number="01"),
        files(218, 131, 142, "Model folder", "in MLflow's format", bold=1, number="01", h=78),
        box(400, 92, 150, 78, "MLflow server", "runs, parameters,", "metrics", kind="server", number="02"),
        drum(590, 87, 146, 88, "S3 store", "the files"),
        arrow((150, 170), (150, 252)),
        note(216, "As a pipeline"),
        box(28, 252, 150, 78, "KFP components", "load, train, upload", number="03"),
        files(218, 291, 142, "One YAML file", "compiled pipeline", bold=1, number="04", h=78),
        box(400, 252, 150, 78, "Pipeline run", "on this machine (05)", "or on Kubeflow (06)", number="05"),
        note(376, "As a service"),
        level(451, 590, 550, 400, 368),
        arrow((663, 330), (663, 412)),
        arrow((150, 412), (150, 330)),
        box(590, 412, 146, 78, "Gate", "better than", "the champion?", number="07"),
        box(400, 412, 150, 78, "Registry", "who is champion", kind="server", number="07"),
        box(218, 412, 150, 78, "API", "answers for it", number="07"),
        box(28, 412, 150, 78, "Sweep, own data", "many settings (08),", "any table (09)", number="08"),
        files(590, 291, 146, "Run and model", "in MLflow", bold=1, number="05", h=78),
        arrow((663, 252), (663, 211), (475, 211), (475, 170)),
    ),
    "design_1": (
        "Design 1: the MLflow component only uploads",
        384,
        "load_iris_data hands data and target to train_from_csv, which hands six files to upload_sklearn_model_to_mlflow. "
        "Training is rewritten per model; the upload stays as it is and alone needs the S3 keys.",
        *LOAD,
        box(266, 75, 144, 150, "train_from_csv", "trains, and saves", "what MLflow needs", kind="rewrite"),
        *SIX,
        box(552, 75, 184, 150, *UPLOAD, "only uploads", keys=True, bold=2),
        *STORE,
        note(308, "Training says what only training can know.", "The upload is written once and never changes."),
    ),
    "design_2": (
        "Design 2: the MLflow component saves and uploads",
        384,
        "load_iris_data hands data and target to train_only, and data to save_and_upload as well. train_only hands over "
        "the model alone and is rewritten per model; save_and_upload works out the rest and needs the S3 keys.",
        *LOAD,
        box(266, 75, 144, 150, "train_only", "trains", kind="rewrite"),
        files(449, 150, 66, "model"),
        level(150, 410, 449, 515, 552),
        arrow((212, 178), (212, 262), (580, 262), (580, 225)),
        files(305, 262, 66, "data"),
        box(
            552,
            75,
            184,
            150,
            "save_and_upload",
            "works out example,",
            "signature, environment;",
            "saves and uploads",
            keys=True,
        ),
        *STORE,
        note(
            308,
            "Training is short.",
            "The MLflow component needs its data and its packages",
            "too, and guesses the rest.",
        ),
    ),
    "design_3": (
        "Design 3: training does everything",
        384,
        "load_iris_data hands data and target to train_and_upload, which trains, saves and uploads. It is rewritten per "
        "model, and every copy of it needs the S3 keys.",
        *LOAD,
        box(266, 75, 470, 150, "train_and_upload", "trains, saves and uploads", kind="rewrite", keys=True),
        *STORE,
        note(308, "One component, nothing to hand over.", "Each new model copies the upload, and its keys."),
    ),
    "pipeline": (
        "mlflow_pipeline",
        396,
        "kernel goes into train_from_csv, the other parameters into upload_sklearn_model_to_mlflow. load_iris_data hands two "
        "files to train_from_csv, which hands six to the upload. Its keys come from a secret. The pipeline puts out the run's id.",
        '<g transform="translate(0,92)">',
        *LOAD,
        box(266, 75, 144, 150, "train_from_csv", "trains and scores"),
        *SIX,
        box(552, 75, 184, 150, *UPLOAD, "with keys from a secret", keys=True, bold=2),
        "</g>",
        note(104, "Parameters of the pipeline"),
        pill(284, 84, 108, 31, "kernel"),
        arrow((338, 115), (338, 167)),
        pill(
            466,
            62,
            270,
            74,
            "model_name, experiment_name,",
            "mlflow_tracking_uri, artifact_location,",
            "mlflow_s3_endpoint_url, s3_secret_name",
        ),
        arrow((644, 136), (644, 167)),
        arrow((644, 317), (644, 346)),
        pill(590, 346, 108, 31, "run id"),
        note(367, "Output of the pipeline"),
    ),
    "lean": (
        "Design 1, leaner: one folder, unopened",
        384,
        "load_csv hands data and target to a training, which hands a finished MLflow model folder and its metrics to "
        "upload_model_to_mlflow. The training is rewritten per model; the upload opens no model. Reading and upload need the S3 keys; training needs none.",
        box(28, 100, 130, 100, "load_csv", "checks the table", keys=True),
        level(150, 158, 179, 245, 266),
        files(179, 150, 66, "data", "target"),
        box(266, 75, 144, 150, "train_classifier", "trains, and saves", "the whole folder", kind="rewrite"),
        files(428, 150, 108, "model", "metrics"),
        level(150, 410, 428, 536, 552),
        box(552, 75, 184, 150, "upload_", "model_to_mlflow", "opens nothing", keys=True, bold=2),
        *STORE,
        note(308, "Training finishes the model, in any framework.", "The upload copies bytes, and cannot run them."),
    ),
    "sweep": (
        "sweep_pipeline",
        392,
        "load_iris_data hands the table to the notebook describe_data and to hold_out. score_candidate runs once for each "
        "candidate; log_sweep logs all scores, pick_best takes the best to train_from_csv. The upload follows, then evaluate "
        "and the gate promote_if_better.",
        level(121, 158, 196, 306, 346, 486, 576),
        arrow((93, 150), (93, 196)),
        arrow((416, 150), (416, 196)),
        arrow((656, 150), (656, 300)),
        level(333, 586, 546, 376, 336, 216, 186),
        box(28, 92, 130, 58, "load_iris_data"),
        box(28, 196, 130, 58, "describe_data", "a notebook"),
        box(196, 92, 110, 58, "hold_out", "rows for the end"),
        box(354, 84, 140, 58),
        box(350, 88, 140, 58),
        box(346, 92, 140, 58, "score_candidate", "once for each"),
        box(346, 196, 140, 58, "log_sweep", "parent and children", keys=False),
        box(576, 92, 160, 58, "pick_best", "metrics, report"),
        box(586, 300, 150, 66, "train_from_csv", "the best candidate"),
        box(376, 300, 170, 66, *UPLOAD, bold=2),
        box(216, 300, 120, 66, "evaluate", "confusion", "matrix"),
        box(28, 300, 158, 66, "promote_if_better", "the gate"),
    ),
    "storage_cluster": (
        "Where files live in a cluster",
        428,
        "Tasks write their outputs to the object store of Kubeflow Pipelines, with the keys of the namespace. The upload "
        "sends runs, parameters and metrics to the MLflow server, which keeps them in PostgreSQL. Model files go straight to the "
        "store, with the task's keys; or, dotted, through the server, with its keys.",
        box(28, 76, 146, 326, "Tasks of a run", "each a pod", keys=True),
        arrow((174, 116), (586, 116)),
        text(378, 106, "outputs of every task: the pipeline root"),
        drum(586, 62, 150, 108, "S3 store", "bucket mlpipeline"),
        arrow((174, 226), (330, 226)),
        text(252, 198, "runs, parameters,"),
        text(252, 216, "metrics (HTTP)"),
        box(330, 186, 160, 134, "MLflow server", kind="server", keys=True),
        arrow((490, 226), (586, 226)),
        drum(586, 184, 150, 90, "PostgreSQL", "runs, metrics"),
        arrow((174, 290), (330, 290), dotted=True),
        text(252, 280, "or: files, proxied"),
        arrow((410, 320), (410, 348), (586, 348), dotted=True),
        text(498, 340, "with the server's keys"),
        arrow((174, 386), (586, 386)),
        text(300, 376, "files, with the task's keys"),
        drum(586, 308, 150, 100, "S3 store", "artifacts of runs"),
    ),
    "storage": (
        "Who talks to whom on this machine",
        372,
        "Your notebook or task sends runs, parameters and metrics over HTTP to the MLflow server, which keeps them in SQLite. "
        "Files go straight to the S3 store, with your keys; or, dotted, through the server, with its keys.",
        box(28, 76, 146, 268, "Your notebook", "or a task", keys=True),
        arrow((174, 116), (330, 116)),
        text(248, 88, "runs, parameters,"),
        text(248, 106, "metrics (HTTP)"),
        box(330, 76, 160, 134, "MLflow server", kind="server", keys=True),
        arrow((490, 116), (586, 116)),
        drum(586, 62, 150, 108, "SQLite", "runs, parameters,", "metrics"),
        arrow((174, 180), (330, 180), dotted=True),
        text(248, 170, "or: files, proxied"),
        arrow((410, 210), (410, 266), (586, 266), dotted=True),
        text(498, 256, "with the server's keys"),
        arrow((174, 318), (586, 318)),
        text(300, 308, "files, with your keys"),
        drum(586, 238, 150, 110, "S3 store", "bucket mlflow"),
    ),
}


for name, (title, height, description, *parts) in FIGURES.items():
    card = box(1, 1, WIDTH - 2, height - 2, kind="card")  # light, on a page of any colour
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="title desc" font-family="Helvetica, Arial, sans-serif">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>'
    )
    drawing = "\n".join([head, card, text(28, 36, title, 17, "bold", INK, "start"), *parts, "</svg>\n"])
    (Path("notebooks/images") / f"{name}.svg").write_text(drawing, encoding="utf-8")

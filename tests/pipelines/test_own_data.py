"""Tables of strangers: good ones go through unchanged components, bad ones are refused by name."""

import os

import boto3
import mlflow
import pandas as pd
import pytest
from kfp.dsl import Metrics, Model
from sklearn.datasets import load_breast_cancer, load_wine

from helpers.pipelines.lean_pipeline import load_csv, train_classifier

GOOD = "a,b,target\n" + "".join(f"{n},{n % 7},{'xy'[n % 2]}\n" for n in range(20))


def load(path, folder, target_column="target", endpoint=""):
    files = [str(folder / "out_data"), str(folder / "out_target")]
    load_csv(str(path), target_column, endpoint, *files)
    return pd.read_csv(files[0]), pd.read_csv(files[1])["target"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", b"", "empty.csv is no table: No columns to parse"),
        ("header", b"a,b,target\n", "needs rows"),
        ("other", GOOD.replace("target", "species").encode(), r"no column 'target'. Name one of: a, b, species\."),
        ("alone", b"target\n" + b"x\ny\n" * 9, "a column besides 'target'"),
        ("text", GOOD.replace("\n4,", "\nfour,").encode(), "text.csv, line 6: 'a' is 'four', not a number"),
        ("infinite", GOOD.replace("\n4,", "\ninf,").encode(), "infinite.csv, line 6: 'a' is 'inf', not a number"),
        ("gap", GOOD.replace("\n4,", "\n,").encode(), "gap.csv, line 6: 'a' is empty"),
        ("gap_in_target", GOOD.replace(",x\n", ",\n", 1).encode(), "gap_in_target.csv, line 2: 'target' is empty"),
        ("one", GOOD.replace(",y", ",x").encode(), "'target' holds a single class, 'x'"),
        ("few", (GOOD + "1,1,z\n").encode(), "class 'z' has only 1 of the five rows"),
        (
            "measurement",
            b"a,target\n" + b"".join(b"%d,0.%d\n" % (n, n) for n in range(10, 40)),
            "a measurement and no class",
        ),
        ("binary", bytes(range(256)) * 9, "binary.csv is no table"),
        ("latin", GOOD.replace("x", "ä").encode("latin-1"), "latin.csv is no table.*UTF-8"),
        ("ragged", (GOOD + "1,2,3,4,5\n").encode(), "ragged.csv is no table"),
        ("long", GOOD.replace("\n4,", f"\n{'x' * 9000},").encode(), "line 6: 'a' is 'x{40}', not a number"),
    ],
)
def test_bad_table_is_refused_with_place_and_remedy_and_writes_nothing(tmp_path, name, content, message):
    (tmp_path / f"{name}.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        load(tmp_path / f"{name}.csv", tmp_path)
    assert len(str(raised.value)) < 1000
    assert not (tmp_path / "out_data").exists() and not (tmp_path / "out_target").exists()


def test_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path, ""):
        with pytest.raises(ValueError, match="cannot be read.*Name a file that this task can see"):
            load(path, tmp_path)


def test_good_table_comes_out_as_numbers_and_classes(tmp_path):
    (tmp_path / "good.csv").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())  # as a spreadsheet saves it
    data, target = load(tmp_path / "good.csv", tmp_path)
    assert list(data.columns) == ["a", "b"] and set(data.dtypes.map(str)) == {"float64"}
    assert data["a"].tolist() == list(range(20)) and target.tolist() == list("xy" * 10)
    data, target = load(tmp_path / "good.csv", tmp_path, target_column="target")
    assert (tmp_path / "out_target").read_text().startswith("target\n")


@pytest.mark.parametrize(("data_set", "named"), [(load_wine, False), (load_breast_cancer, True)])
def test_other_data_sets_go_through_unchanged_code(tmp_path, data_set, named):
    bunch = data_set(as_frame=True)
    table = bunch.frame.rename(columns={"target": "what is it"})
    if named:
        table["what is it"] = [bunch.target_names[number] for number in table["what is it"]]
    table.to_csv(tmp_path / "table.csv", index=False)
    data, target = load(tmp_path / "table.csv", tmp_path, "what is it")
    model, metrics = Model(uri=str(tmp_path / "model")), Metrics(uri=str(tmp_path / "metrics"))
    train_classifier(str(tmp_path / "out_data"), str(tmp_path / "out_target"), "rbf", model, metrics)
    answers = mlflow.pyfunc.load_model(model.path).predict(data)
    assert metrics.metadata["accuracy"] > 0.9 and (answers == target).mean() > 0.9
    assert set(answers) == set(target), "the classes keep their names"


def test_object_in_the_store(servers, tmp_path):
    s3 = boto3.client("s3", endpoint_url=servers.s3_endpoint_url)
    s3.put_object(Bucket="mlflow", Key="tables/my table.csv", Body=GOOD.encode())
    data, _ = load("s3://mlflow/tables/my table.csv", tmp_path, endpoint=servers.s3_endpoint_url)
    assert len(data) == 20
    for source, why in {
        "s3://mlflow/tables/none.csv": "NoSuchKey|does not exist",
        "s3://nobody/x.csv": "",
        "s3://": "",
        "s3://mlflow": "",
    }.items():
        with pytest.raises(ValueError, match=f"{source!r} cannot be read: .*({why})"):
            load(source, tmp_path, endpoint=servers.s3_endpoint_url)


def test_wrong_key_is_refused_and_not_shown(servers, tmp_path):
    os.environ["AWS_SECRET_ACCESS_KEY"] = "not-the-secret"
    boto3.DEFAULT_SESSION = None
    with pytest.raises(ValueError, match="SignatureDoesNotMatch.*keys that may read it") as raised:
        load("s3://mlflow/x.csv", tmp_path, endpoint=servers.s3_endpoint_url)
    assert "not-the-secret" not in str(raised.value)

"""A stranger's table comes out as what was written, with types, or is refused with a place and a remedy."""

import csv
import datetime
import json
import os
import re

import boto3
import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines.untrusted import GOOD, HOSTILE, any_name, text, tried

from helpers import stack
from helpers.pipelines.lean_pipeline import load_table

WRITTEN = ("data", "target", "test_data", "test_target")
BASE = "n,w,target\n" + "".join(f"{n}.5,{n % 7},{'ab'[n % 2]}\n" for n in range(20))


def load(folder, source, target_column="target", model_type="classifier", endpoint="", **columns):
    """Run load_table; return features and targets in the order of their rows, or the refusal, which names the file and writes nothing."""
    paths = [folder / f"out_{name}" for name in WRITTEN]
    for path in paths:
        path.unlink(missing_ok=True)
    before = set(os.listdir(folder))
    try:
        load_table(str(source), target_column, model_type, endpoint, *map(str, paths), **columns)
    except ValueError as error:
        assert str(error).startswith((str(source), repr(str(source)), "model_type=", "columns ")), error
        assert len(str(error)) < 1000 + len(str(source)) and set(os.listdir(folder)) == before
        return str(error)
    assert set(os.listdir(folder)) == before | {path.name for path in paths}
    data, target, test_data, test_target = map(pd.read_parquet, paths)
    assert list(data) == list(test_data) and len(test_data) == len(test_target) > 0
    assert set(test_target["target"]) <= set(target["target"]) or model_type == "regressor"
    return pd.concat([data, test_data], ignore_index=True), pd.concat([target, test_target], ignore_index=True)[
        "target"
    ]


def column(*values, name="n", rows=20):
    """A good table with a column of these values."""
    lines = [f'"{values[n % len(values)]}",{n % 7},{"ab"[n % 2]}' for n in range(rows)]
    return "\n".join([f"{name},w,target", *lines, ""])


def classes(first, second, name="target"):
    return f"n,w,{name}\n" + "".join(f'{n},{n % 7},"{(first, second)[n % 2]}"\n' for n in range(20))


NUMBERS = [n + 0.5 for n in range(20)]
DAY = pd.Timestamp("2026-02-03")
TAKEN = {  # the bytes; what the first column then holds, and the classes
    "good": (BASE, NUMBERS, "ab"),
    "byte order mark": ("\ufeff" + BASE, NUMBERS, "ab"),
    "ends of lines as in Windows": (BASE.replace("\n", "\r\n"), NUMBERS, "ab"),
    "ends of lines as in old Macs": (BASE.replace("\n", "\r"), NUMBERS, "ab"),
    "no end of the last line": (BASE.rstrip("\n"), NUMBERS, "ab"),
    "blank lines": (BASE.replace("\n", "\n\n"), NUMBERS, "ab"),
    "semicolons": ("\ufeff" + BASE.replace(",", ";").replace("\n", "\r\n"), NUMBERS, "ab"),
    "semicolons and decimal commas": (BASE.replace(",", ";").replace(".", ","), NUMBERS, "ab"),
    "tabs": (BASE.replace(",", "\t"), NUMBERS, "ab"),
    "bars": (BASE.replace(",", "|"), NUMBERS, "ab"),
    "line that names the separator": ("sep=;\n" + BASE.replace(",", ";"), NUMBERS, "ab"),
    "UTF-16 with tabs": (BASE.replace(",", "\t").encode("utf-16"), NUMBERS, "ab"),
    "spaces round names": (BASE.replace("n,w,target", " n , w, target "), NUMBERS, "ab"),
    "comma at the end of each line": (BASE.replace("\n", ",\n"), NUMBERS, "ab"),
    "quoted decimal commas": (column("1,5", "2"), [1.5, 2], "ab"),
    "signs, exponents and spaces": (column("+1", " 2e1 ", "-.5", "3."), [1, 20, -0.5, 3], "ab"),
    "gaps in numbers": (column("1", "", "NA", "#N/A", "null", " "), [1, None, None, None, None, None], "ab"),
    "booleans": (column("True", "false", "TRUE"), [True, False, True], "ab"),
    "booleans with gaps": (column("true", "", "false"), [True, None, False], "ab"),
    "days": (column("2026-02-03", "2026-02-03T00:00:00Z", "2026-02-03 00:00"), [DAY, DAY, DAY], "ab"),
    "day with a zone": (column("2026-02-03T01:00:00+01:00", "2026-02-03"), [DAY, DAY], "ab"),
    "zeros in front": (column("01067", "10115"), ["01067", "10115"], "ab"),
    "words that mean a gap elsewhere": (column("NA", "None", "Mild"), ["NA", "None", "Mild"], "ab"),
    "words and gaps": (column("red", "", "dark, blue"), ["red", None, "dark, blue"], "ab"),
    "words in other alphabets": (column("groß", "꽃잎", "😀"), ["groß", "꽃잎", "😀"], "ab"),
    "line end inside a cell": (column("one", "two\nlines"), ["one", "two\nlines"], "ab"),
    "quotes inside a cell": (column('it is ""so""', "b"), ['it is "so"', "b"], "ab"),
    "times of day": (column("10:30", "11:30"), ["10:30", "11:30"], "ab"),
    "classes with zeros in front": (classes("007", "042"), None, ["007", "042"]),
    "classes like exponents": (classes("1e5", "2e5"), None, ["1e5", "2e5"]),
    "classes like halves": (classes("0.5", "1.5"), None, ["0.5", "1.5"]),
    "classes like decimals": (classes("0.0", "1.0"), None, ["0.0", "1.0"]),
    "whole numbers": (classes("-1", "0"), None, [-1, 0]),
    "long ids": (classes("9007199254740993", "9007199254740992"), None, [9007199254740993, 9007199254740992]),
    "longer ids": (classes(2**64, 2**64 + 1), None, [str(2**64), str(2**64 + 1)]),
    "classes that mean a gap elsewhere": (classes("None", "NA"), None, ["None", "NA"]),
    "true and false": (classes("True", "False"), None, [True, False]),
    "quotes and commas in classes": (classes('so, ""a""', "b"), None, ['so, "a"', "b"]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_table_comes_out_as_it_was_written(tmp_path, kind):
    content, first, named = TAKEN[kind]
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = load(tmp_path, tmp_path / "t.csv")
    assert not isinstance(found, str), found
    data, target = found
    assert list(data) == ["n", "w"] and len(data) == len(target) == 20
    assert {type(one) for one in target.tolist()} == {type(one) for one in named}
    assert sorted(target.tolist()) == sorted([*named] * 10)
    if first is not None:
        cells = data["n"].astype(object).where(data["n"].notna(), None).tolist()
        expected = [float(one) if type(one) is int else one for one in (first[n % len(first)] for n in range(20))]
        assert sorted(map(repr, cells)) == sorted(map(repr, expected)), (cells, expected)


# fmt: off
REFUSED = {  # the table; words of the refusal
    "nothing": ("", "has no column 'target'"),
    "header alone": ("a,b,target\n", "needs rows"),
    "other name": (BASE.replace("target", "species"), r"no column 'target'\. Name one of: n, w, species\."),
    "other case": (BASE.replace("target", "Target"), "Name one of: n, w, Target"),
    "comment above the names": ("# by hand, 3 columns\n" + BASE, "names in line 2: delete what is above"),
    "title above the names": ("Our table\n\n" + BASE.replace(",", ";"), "names in line 3"),
    "no other column": ("target\n" + "a\nb\n" * 9, "a column besides 'target'"),
    "index without a name": (BASE.replace("n,w", ",w"), "column without a name, as of an index: name or delete it"),
    "name twice": (BASE.replace("n,w", "w,w"), "column 'w' twice"),
    "name of the target twice": (BASE.replace("n,w", "target,w"), "column 'target' twice"),
    "long name": (BASE.replace("n,w", "n" * 101 + ",w"), "over 100 letters"),
    "commas after rows alone": (BASE.replace("a\n", "a,\n").replace("b\n", "b,\n"), "line 2: 4 values for 3 names"),
    "row too long": (BASE + "1,2,a,4\n", "line 22: 4 values for 3 names"),
    "row too short": (BASE.replace("3.5,3,b", "3.5,b"), "line 5: 2 values for 3 names"),
    "quote that never ends": (BASE + '9,"9,a\n9,9,a\n', "22"),
    "not UTF-8": (BASE.replace("a\n", "ä\n").encode("cp1252"), "not in UTF-8: save it as CSV UTF-8"),
    "names not in UTF-8": (BASE.replace("w", "ä").encode("cp1252"), "not in UTF-8"),
    "Excel": (b"PK\x03\x04" + bytes(99), "Excel file: save it as CSV or Parquet"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is packed"),
    "broken Parquet": (b"PAR1" + bytes(99), "no whole Parquet file"),
    "binary": (bytes(range(256)) * 9, "UTF-8|no column"),
    "stray word": (BASE.replace("4.5,", "four,"), "line 6: 'n' is 'four', which is no number.*columns"),
    "stray word below blank lines": (BASE.replace("\n", "\n\n").replace("4.5,", "four,"), "line 11: 'n' is 'four'"),
    "stray word below a long cell": (BASE.replace("1.5,1,b", '1.5,"x\ny",b').replace("4.5,", "q,"), "line 7: 'n' is 'q'"),
    "stray word of 9,000 letters": (BASE.replace("4.5,", "x" * 9000 + ","), "line 6: 'n' is 'x{40}', which"),
    "stray word in dates": (column("2026-01-01", "2026-01-02", "soon"), "line 4: 'n' is 'soon', which is no date"),
    "day that is none": (column("2026-01-01", "2026-02-30"), "line 3: .*2026-02-30.* no day of the calendar"),
    "days as in Germany": (column("31.12.2026"), "no date as 2026-12-31"),
    "days as in America": (column("12/31/2026"), "no date as 2026-12-31"),
    "infinite": (column("1", "2", "inf"), "line 4: 'n' is 'inf', which is no number"),
    "beyond all numbers": (column("1", "9" * 400), "line 3: .*infinite"),
    "id that a number cannot hold": (column("9007199254740993", "1"), "line 2: .*too many digits"),
    "thousands or decimals": (column("1,509", "2,000"), "line 2: 'n' is '1,509', which may be thousands or decimals"),
    "commas and points": (column("1.5", "1,5"), "line 3: 'n' is '1,5', which has a comma where others have a point"),
    "points and commas": (column("1.509,5", "2"), "line 2: .*no plain number"),
    "percent": (column("1%", "2.5%"), "'1%', which is no plain number"),
    "euros": (column("€ 1", "€ 2"), "no plain number"),
    "currency behind": (column("1 EUR", "2 EUR"), "no plain number"),
    "underscores": (column("1_509", "2"), "'1_509', which is no plain number"),
    "spaces for thousands": (column("2", "1 509"), "line 3: 'n' is '1 509', which is no plain number"),
    "empty column": (column(""), "'n' has no values: let columns drop it"),
    "column of gaps": (column("NA"), "'n' .*has no values: let columns drop it"),
    "gap in the target": (BASE.replace("0.5,0,a", "0.5,0,"), "line 2: 'target' is empty: fill or drop that row"),
    "space for a class": (BASE.replace("0.5,0,a", "0.5,0, "), "line 2: 'target' .*empty: fill or drop that row"),
    "classes told apart by a space": (classes("a", "a "), "line 3: 'target' is 'a ', which differs .* by a space"),
    "a single class": (classes("a", "a"), "single class, 'a'"),
    "small class": (BASE + "1,1,c\n", "class 'c' has 1 of the five rows"),
    "measurement": ("n,target\n" + "".join(f"{n},{n}.5\n" for n in range(30)), "model_type is regressor"),
    "101 classes": ("n,target\n" + "".join(f"{n},c{n % 101}\n" for n in range(505)), "101 classes, and 100 is the most"),
    "1001 columns": (",".join(map(str, range(1001))) + ",target\n", "more than 1,000 columns"),
}
# fmt: on


@pytest.mark.parametrize("kind", REFUSED)
def test_table_is_refused_with_place_and_remedy(tmp_path, kind):
    content, message = REFUSED[kind]
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = load(tmp_path, tmp_path / "t.csv")
    assert isinstance(found, str) and re.search(message, found, re.S), found


def test_columns_have_the_last_word(tmp_path):
    (tmp_path / "t.csv").write_text(column("1,509", "2,000"))
    data, _ = load(tmp_path, tmp_path / "t.csv", columns={"n": "text"})
    assert set(data["n"]) == {"1,509", "2,000"}
    data, _ = load(tmp_path, tmp_path / "t.csv", columns={"n": "drop"})
    assert list(data) == ["w"]
    (tmp_path / "t.csv").write_text(column("007", "NA"))
    data, _ = load(tmp_path, tmp_path / "t.csv", columns={"n": "number"})
    assert set(data["n"].dropna()) == {7.0}
    for columns, message in (
        ({"none": "text"}, "no column 'none', which columns names"),
        ({"n": "integer"}, "take text, number, bool, date or drop"),
        ({"n": "bool"}, "line 2: 'n' is '007', which is no bool"),
        ({"n": "date"}, "line 2: 'n' is '007', which is no date"),
        ({"n": "drop", "w": "drop"}, "a column besides 'target'"),
    ):
        assert message in load(tmp_path, tmp_path / "t.csv", columns=columns)


def test_target_of_a_regressor_is_a_number_without_gaps(tmp_path):
    (tmp_path / "t.csv").write_text(BASE.replace(",a\n", ",1.25\n").replace(",b\n", ',"2"\n'))
    _, target = load(tmp_path, tmp_path / "t.csv", model_type="regressor")
    assert target.dtype == float and sorted(set(target)) == [1.25, 2]
    for wrong, message in {"": "line 2: 'target' is empty", "x": "line 2: 'target' is 'x', which is no number"}.items():
        (tmp_path / "t.csv").write_text(
            BASE.replace("b\n", "1\n").replace("a\n", f"{wrong}\n", 1).replace("a\n", "2\n")
        )
        assert message in load(tmp_path, tmp_path / "t.csv", model_type="regressor")
    (tmp_path / "t.csv").write_text("n,target\n" + "1,2\n" * 9)
    assert "needs ten rows" in load(tmp_path, tmp_path / "t.csv", model_type="regressor")
    assert "take classifier or regressor" in load(tmp_path, tmp_path / "t.csv", model_type="guess")


def test_parquet_keeps_its_types(tmp_path):
    days = pd.Series([datetime.date(2026, 1, 1 + n) for n in range(20)])
    table = pd.DataFrame(
        {
            "whole": pd.array([*range(19), None], dtype="Int64"),
            "word": pd.Categorical(["red", "blue"] * 10),
            "yes": [True, None] * 10,
            "day": days,
            "moment": pd.to_datetime(days).dt.tz_localize("Asia/Seoul"),
            "class": [1.0, 2.0] * 10,
        }
    ).set_index(pd.Index(range(5, 25)))
    table.to_parquet(tmp_path / "t.parquet")
    data, target = load(tmp_path, tmp_path / "t.parquet", "class")
    assert [*map(str, data.dtypes)] == ["float64", "str", "object", "datetime64[us]", "datetime64[us]"]
    assert target.dtype == "int64" and data["moment"].min() == pd.Timestamp("2025-12-31 15:00")
    data, _ = load(tmp_path, tmp_path / "t.parquet", "class", columns={"whole": "text"})
    assert "18" in set(data["whole"])
    for wrong, message in {
        "list": ([[1]] * 20, "'wrong' .*list.*no model takes"),
        "big": ([2**60] * 20, "row 0: 'wrong' is '1152921504606846976', which is too large"),
        "infinite": ([float("inf")] * 20, "row 0: 'wrong' is 'inf', which is too large"),
        "none": ([None] * 20, "'wrong' .*(null|no values)"),
    }.values():
        table.assign(wrong=wrong).to_parquet(tmp_path / "t.parquet")
        assert re.search(message, load(tmp_path, tmp_path / "t.parquet", "class"))
    assert "no column 'target'. Name one of: whole, word" in load(tmp_path, tmp_path / "t.parquet")


# --- whatever a stranger may write ---------------------------------------------------------------

numbers = st.integers(-(10**6), 10**6).map(str) | st.floats(allow_nan=False, allow_infinity=False).map(str)
cells = numbers | st.floats().map(str) | text | st.sampled_from(HOSTILE)


@tried
@given(st.data())
def test_each_cell_is_what_was_written_or_the_table_is_refused(tmp_path, data):
    width = data.draw(st.integers(1, 4))
    content = data.draw(st.sampled_from([numbers, cells, text]))
    rows = [[*data.draw(st.lists(content, min_size=width, max_size=width)), "xy"[row % 2]] for row in range(12)]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[*map("c{}".format, range(width)), "target"], *rows])
    found = load(tmp_path, tmp_path / "t.csv")
    if not isinstance(found, str):
        for place, name in enumerate(found[0]):
            read, wrote = found[0][name], [row[place] for row in rows]
            if read.dtype == float:
                assert np.isfinite(read.dropna()).all()
                wrote = [float(one.replace(",", ".")) for one in wrote if re.search(r"\d", one)]
            elif str(read.dtype) == "str":
                wrote = [one for one in wrote if one.strip()]
            else:
                continue
            assert sorted(read.dropna()) == sorted(wrote)


@tried
@given(st.binary(max_size=300))
def test_bytes_that_are_no_table_are_refused(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert isinstance(load(tmp_path, tmp_path / "t.csv"), str)


@tried
@given(any_name.filter(lambda name: name.strip() not in ("a", "b", "target")))
def test_column_that_is_not_there_is_refused_by_name(tmp_path, name):
    (tmp_path / "t.csv").write_text(GOOD)
    assert f"no column {name[:40]!r}"[:-1] in load(tmp_path, tmp_path / "t.csv", target_column=name)


# fmt: off
SIZES = {
    "long header": GOOD.replace("a,b,target", "x" * 10**7 + ",b,t"),
    "long name": GOOD.replace("a,b,target", "x" * 10**7 + ",b,target").replace("\n4,", "\nq,"),
    "long class": GOOD + "1,2," + "z" * 10**7 + "\n",
    "long cell": GOOD.replace("\n4,", "\n" + "q" * 10**7 + ","),
    "no line at all": "\0" * 10**8,
    "quote in the names that never ends": 'a,"b,target\n' + "1,2,x\n" * 10**7,
    "quote that never ends": GOOD + '1,"2,x\n' + "1,2,x\n" * 10**6,
    "20000 columns": ",".join(["c"] * 20_000) + ",target\n" + (",".join(["1"] * 20_000) + ",x\n") * 2,
    "51 million cells": "a,b,target\n" + "1,2,x\n1,2,y\n" * 8_500_000,
}
# fmt: on


@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
def test_table_of_a_wrong_size_is_refused(tmp_path, no_longer_than, content):
    (tmp_path / "t.csv").write_text(content)
    with no_longer_than(30):
        assert isinstance(load(tmp_path, tmp_path / "t.csv"), str)


# --- where it comes from -------------------------------------------------------------------------


def test_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path, "", "/dev/zero"):
        found = load(tmp_path, path)
        assert "cannot be read: there is no such file. Name a file that this task can see" in found


def test_dataset_that_was_logged_is_read_from_its_source(servers, tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    mlflow.set_tracking_uri(servers.tracking_uri)
    mlflow.set_experiment("datasets")
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_pandas(pd.read_csv(tmp_path / "t.csv"), source=str(tmp_path / "t.csv")))
    noted = mlflow.get_run(run.info.run_id).inputs.dataset_inputs[0].dataset.source
    assert json.loads(noted) and len(load(tmp_path, noted)[0]) == 20
    assert "it has no uri" in load(tmp_path, '{"tags": {"a": "b"}}')
    assert "cannot be read" in load(tmp_path, "{")


def test_object_in_the_store(servers, tmp_path):
    s3 = boto3.client("s3", endpoint_url=servers.s3_endpoint_url)
    s3.put_object(Bucket=stack.BUCKET, Key="tables/my table.csv", Body=GOOD.encode())
    found = load(tmp_path, f"s3://{stack.BUCKET}/tables/my table.csv", endpoint=servers.s3_endpoint_url)
    assert len(found[0]) == 20
    for source, why in {
        f"s3://{stack.BUCKET}/tables/none.csv": "NoSuchKey|does not exist",
        "s3://nobody/x.csv": "",
        "s3://": "",
        f"s3://{stack.BUCKET}": "",
    }.items():
        found = load(tmp_path, source, endpoint=servers.s3_endpoint_url)
        assert re.search(f"{source!r} cannot be read: .*({why})", found)


def test_wrong_key_is_refused_and_not_shown(servers, tmp_path):
    os.environ["AWS_SECRET_ACCESS_KEY"] = "not-the-secret"
    boto3.DEFAULT_SESSION = None
    found = load(tmp_path, f"s3://{stack.BUCKET}/x.csv", endpoint=servers.s3_endpoint_url)
    assert re.search("SignatureDoesNotMatch.*keys that may read it", found) and "not-the-secret" not in found


KEYS = ["../x.csv", "../../etc/passwd", "/etc/passwd", "a//b.csv", "./x.csv", "a/../x.csv", "../other/x.csv"]
KEYS += ["x" * 900, "한글 😀.csv", "a?b#c%2e.csv", "$(touch ran).csv", "a\nb.csv"]


@pytest.mark.parametrize("key", KEYS)
def test_key_of_the_store_leads_out_of_no_bucket(servers, tmp_path, key):
    s3 = boto3.Session().client("s3", endpoint_url=servers.s3_endpoint_url)
    if "other" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket="other")
        for decoy in ("x.csv", "etc/passwd", "a/b.csv"):
            s3.put_object(Bucket="other", Key=decoy, Body=GOOD.replace("a,b,", "decoy,b,").encode())
            s3.put_object(Bucket=stack.BUCKET, Key=decoy, Body=GOOD.encode())
    boto3.DEFAULT_SESSION = None
    source = f"s3://{stack.BUCKET}/{key}"
    found = load(tmp_path, source, endpoint=servers.s3_endpoint_url)
    if isinstance(found, str):
        assert "cannot be read" in found and "root:" not in found
    else:
        assert list(found[0]) == ["a", "b"], "an object of another bucket was read"
        assert "//" in source.removeprefix("s3://"), "SeaweedFS takes two slashes for one, and no other liberty"

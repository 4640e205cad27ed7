"""A table from outside comes out as numbers and classes, or is refused with a short sentence."""

import csv
import os
import subprocess
import sys

import boto3
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines.untrusted import GOOD, HOSTILE, any_name, text, tried

from helpers import stack
from helpers.pipelines import lean_pipeline


def load(folder, source, target_column="target", endpoint=""):
    """Run load_csv; return what it wrote, or the refusal. It says which file, in few words, and writes nothing."""
    data, target = folder / "out_data", folder / "out_target"
    for path in (data, target):
        path.unlink(missing_ok=True)
    before = set(os.listdir(folder))
    try:
        lean_pipeline.load_csv(str(source), target_column, endpoint, str(data), str(target))
    except ValueError as error:
        assert str(error).startswith((str(source), repr(str(source)))) and len(str(error)) < 1000 + len(str(source)), (
            len(str(error))
        )
        assert set(os.listdir(folder)) == before
        return str(error)
    assert set(os.listdir(folder)) == before | {"out_data", "out_target"}
    return pd.read_csv(data), pd.read_csv(target)


cells = st.integers(-(10**6), 10**6).map(str) | st.floats().map(str) | text | st.sampled_from(HOSTILE)
numbers = st.integers(-(10**6), 10**6).map(str) | st.floats(allow_nan=False, allow_infinity=False).map(str)


@tried
@given(st.data())
def test_table_comes_out_as_numbers_or_is_refused(tmp_path, data):
    width = data.draw(st.integers(1, 4))
    header = [*data.draw(st.lists(text, min_size=width, max_size=width)), "target"]
    content = data.draw(st.sampled_from([numbers, cells]))
    rows = [[*data.draw(st.lists(content, min_size=width, max_size=width)), "xy"[row % 2]] for row in range(12)]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    found = load(tmp_path, tmp_path / "t.csv")
    if not isinstance(found, str):
        assert found[0].shape[1] == width and np.isfinite(found[0].to_numpy(dtype=float)).all()
        assert len(found[0]) == len(found[1]) <= 12 and set(found[1]["target"]) <= {"x", "y"}


@tried
@given(st.binary(max_size=300))
def test_bytes_that_are_no_table_are_refused(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert isinstance(load(tmp_path, tmp_path / "t.csv"), str)


@tried
@given(any_name.filter(lambda name: name not in ("a", "b", "target")))
def test_column_that_is_not_there_is_refused_by_name(tmp_path, name):
    (tmp_path / "t.csv").write_text(GOOD)
    assert f"no column {name[:40]!r}"[:-1] in load(tmp_path, tmp_path / "t.csv", target_column=name)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD.replace("a,b,target", "b,target"), id="nameless first column"),
        pytest.param(GOOD.replace("a,b,target", "b,target").replace("\n4,4", "\nr,r"), id="row names"),
        pytest.param(GOOD.replace("a,b,target", "x" * 10**7 + ",b,t"), id="long header"),
        pytest.param(GOOD.replace("a,b,target", "x" * 10**7 + ",b,target").replace("\n4,", "\nq,"), id="long name"),
        pytest.param(GOOD + "1,2," + "z" * 10**7 + "\n", id="long class"),
        pytest.param(GOOD.replace("\n4,", "\n" + "q" * 10**7 + ","), id="long cell"),
        pytest.param(GOOD.replace("\n4,", "\n" + "9" * 400 + ","), id="number beyond all"),
        pytest.param(
            ",".join(["c"] * 20_000) + ",target\n" + (",".join(["1"] * 20_000) + ",x\n") * 2, id="20000 columns"
        ),
        pytest.param("a,b,target\n" + "1.5,2.5,x\n1.5,2.5,y\n" * 5_500_000, id="110 MB"),
    ],
)
def test_table_of_a_wrong_shape_or_size_is_refused(tmp_path, no_longer_than, content):
    (tmp_path / "t.csv").write_text(content)
    with no_longer_than(20):
        assert isinstance(load(tmp_path, tmp_path / "t.csv"), str)


def test_source_without_an_end_is_refused():
    # In a process of its own whose memory has an end.
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9,) * 2)\n"
        "from helpers.pipelines.lean_pipeline import load_csv; load_csv('/dev/zero', 'target', '', 'a', 'b')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ValueError: /dev/zero has more than" in done.stderr


# --- keys of the store ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "../x.csv",
        "../../etc/passwd",
        "/etc/passwd",
        "a//b.csv",
        "./x.csv",
        "a/../x.csv",
        "x" * 900,
        "한글 😀.csv",
        "a?b#c%2e.csv",
        "$(touch ran).csv",
        "a\nb.csv",
        "../other/x.csv",
    ],
)
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

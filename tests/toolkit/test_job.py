import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from program_toolkit.job import HyperparameterParser, Job, JobError, split_target
from program_toolkit.table import Table

FRAME = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 0.25, 0.125], "y": [4.0, 5.0, 6.0]})
VALUES = FRAME.to_numpy(dtype=float)


@pytest.fixture
def channel(tmp_path):
    """The folder of the channel ``train``."""
    folder = tmp_path / "input" / "train"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def a_job(tmp_path, channel):
    return Job({"train": channel}, tmp_path / "model", tmp_path / "output")


# ---------------------------------------------------------------- channels


def write_csv(path):
    FRAME.to_csv(path, index=False, header=False)


def write_csv_with_header(path):
    FRAME.to_csv(path, index=False)


def write_csv_for_excel(path):
    FRAME.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")


def write_npy(path):
    np.save(path, VALUES)


def write_parquet(path):
    FRAME.to_parquet(path, index=False)


def write_parquet_with_shuffled_index(path):
    FRAME.set_index(pd.Index([2, 0, 1])).to_parquet(path)


def write_parquet_with_named_index(path):
    FRAME.set_index(pd.Index(["p", "q", "r"], name="id")).to_parquet(path)


def write_parquet_of_other_types(path):
    types = {"a": "Int8", "b": "float32", "y": "uint64"}
    FRAME.astype(types).to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("name", "write", "names"),
    [
        ("t.csv", write_csv, None),
        ("t.CSV", write_csv_with_header, ("a", "b", "y")),
        ("t.csv", write_csv_for_excel, ("a", "b", "y")),
        ("t.npy", write_npy, None),
        ("t.parquet", write_parquet, ("a", "b", "y")),
        ("t.parquet", write_parquet_with_shuffled_index, ("a", "b", "y")),
        ("t.parquet", write_parquet_with_named_index, ("a", "b", "y")),
        ("t.parquet", write_parquet_of_other_types, ("a", "b", "y")),
    ],
)
def test_reads_each_format(a_job, channel, name, write, names):
    write(channel / name)
    table = a_job.read("train")
    assert table.names == names
    assert table.values.dtype == np.float64
    np.testing.assert_array_equal(table.values, VALUES)


def test_reads_all_files_in_the_order_of_their_names(a_job, channel):
    (channel / "part").mkdir()
    FRAME[2:].to_parquet(channel / "part" / "3.parquet", index=False)
    FRAME[:1].to_csv(channel / "1.csv", index=False)
    FRAME[1:2].to_csv(channel / "2.csv", index=False)
    np.testing.assert_array_equal(a_job.read("train").values, VALUES)


def test_reads_the_one_file_that_is_named(a_job, channel):
    (channel / "sub").mkdir()
    write_csv(channel / "sub" / "_this.csv")
    (channel / "other.csv").write_text("text")
    for name in ("sub/_this.csv", "./sub/_this.csv"):
        np.testing.assert_array_equal(a_job.read("train", name).values, VALUES)


def test_leftovers_of_other_tools_are_no_data(a_job, channel):
    write_csv(channel / "t.csv")
    for name in (".ipynb_checkpoints/t.csv", "_temporary/0/t.csv", "_SUCCESS", ".t.csv.swp"):
        (channel / name).parent.mkdir(parents=True, exist_ok=True)
        write_csv(channel / name)
    np.testing.assert_array_equal(a_job.read("train").values, VALUES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "channel 'train' holds no file"),
        ({"_SUCCESS": b""}, "channel 'train' holds no file"),
        ({"t.csv": b""}, "t.csv is empty"),
        ({"t.csv": b"\n\n"}, "t.csv: there are no lines"),
        ({"t.csv": b"a,b\n"}, "t.csv: there are no rows below the header 'a,b'"),
        ({"t.csv": b"1,2\n3,x\n"}, "t.csv: line 2, column 2: 'x' is not a number"),
        ({"d/t.csv": b"a,y\n1,2\n3,x\n"}, "d/t.csv: line 3, column 'y': 'x' is not a number"),
        ({"t.csv": b"1,2\n3\n"}, "t.csv: line 2 has 1 cells where 2 are expected"),
        ({"t.csv": b"a,y\n1,2\n3,\n"}, "t.csv: row 2, column 'y' is missing"),
        ({"t.csv": b"1,2\nnan,3\n"}, "t.csv: row 2, column 1 is missing"),
        ({"t.csv": b"1,2\n3,-inf\n"}, "t.csv: row 2, column 2 is -inf"),
        ({"t.csv": b"1\n2\n"}, "t.csv has one column only"),
        ({"t.csv": b"1;2\n3;x\n"}, "t.csv: line 2, column 2: 'x' is not a number"),
        ({"t.csv": b"a,a\n1,2\n"}, "t.csv: two columns are named 'a'"),
        ({"t.csv": b"1,\xff\n"}, "t.csv is not UTF-8 text"),
        ({"t.csv": "1,2\n".encode("utf-16")}, "t.csv is not UTF-8 text"),
        ({"t.npy": b"1,2\n"}, "t.npy: the body is not an array"),
        ({"t.parquet": b"PAR1 and no more"}, "t.parquet: not a Parquet file"),
        ({"t.txt": b"1,2\n"}, "t.txt: unknown ending; expected one of .csv, .npy, .parquet"),
        ({"1.csv": b"1,2\n", "2.csv": b"1,2,3\n"}, "2.csv: its columns are not those of 1.csv"),
        ({"1.csv": b"1,2\n", "2.csv": b"a,b\n1,2\n"}, "2.csv: its columns are not those of 1.csv"),
    ],
)
def test_names_what_is_wrong_with_a_file(a_job, channel, files, message):
    for name, content in files.items():
        (channel / name).parent.mkdir(exist_ok=True)
        (channel / name).write_bytes(content)
    with pytest.raises(JobError, match=re.escape(message)):
        a_job.read("train")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(3.0), "has one column only"),
        (np.zeros((0, 3)), "the array is empty: its shape is (0, 3)"),
        (np.array([["a", "b"]]), "send floats or integers"),
        (np.array([[1.0, 2.0], [np.nan, 3.0]]), "row 2, column 1 is missing"),
    ],
)
def test_names_what_is_wrong_with_an_array(a_job, channel, array, message):
    np.save(channel / "t.npy", array)
    with pytest.raises(JobError, match=re.escape(message)):
        a_job.read("train")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.assign(b=["u", "v", "w"]), "column 'b' is"),
        (FRAME.assign(b=pd.Timestamp("2020-01-01")), "column 'b' is text, not numbers"),
        (FRAME.assign(b=[1.0, None, 2.0]), "row 2, column 'b' is missing"),
        (FRAME[["a"]], "has one column only"),
        (FRAME[:0], "has no rows"),
    ],
)
def test_names_what_is_wrong_with_a_parquet_file(a_job, channel, frame, message):
    frame.to_parquet(channel / "t.parquet", index=False)
    with pytest.raises(JobError, match=r"^t\.parquet"):
        a_job.read("train")
    with pytest.raises(JobError, match=re.escape(message)):
        a_job.read("train")


def test_parquet_columns_of_one_name_are_refused(a_job, channel):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([[1.0], [2.0]], names=["a", "a"])
    pyarrow.parquet.write_table(table, channel / "t.parquet")
    with pytest.raises(JobError, match=r"t\.parquet: two columns are named 'a'"):
        a_job.read("train")


def test_names_the_files_and_channels_that_are_there(a_job, channel):
    write_csv(channel / "t.csv")
    with pytest.raises(JobError, match=r"no file 'u.csv' in channel 'train'; it holds: t\.csv"):
        a_job.read("train", "u.csv")
    with pytest.raises(JobError, match=r"no channel 'test' \(channels: 'train'\)"):
        a_job.read("test")
    with pytest.raises(JobError, match=r"no channel 'train' \(channels: none\)"):
        Job({}, a_job.model_dir, a_job.output_dir).read("train")


def test_reads_the_toolkits_variables():
    a_job = Job.from_environ(
        {
            "SM_CHANNELS": '["my-data", "test"]',
            "SM_CHANNEL_MY-DATA": "/in/my-data",
            "SM_CHANNEL_TEST": "/in/test",
            "SM_MODEL_DIR": "/m",
            "SM_OUTPUT_DIR": "/o",
        }
    )
    assert a_job.channels == {"my-data": Path("/in/my-data"), "test": Path("/in/test")}
    assert (a_job.model_dir, a_job.output_dir) == (Path("/m"), Path("/o"))


def test_metrics_are_found_by_a_metric_definition(a_job, capsys):
    a_job.log_metrics(r2_train=0.99684321, rmse_train=12345.678, r2_test=-1e-9)
    printed = capsys.readouterr().out
    assert re.findall(r"r2_train=(.*?);", printed) == ["0.996843"]
    assert re.findall(r"rmse_train=(.*?);", printed) == ["12345.7"]
    assert float(re.search(r"r2_test=(.*?);", printed)[1]) == -1e-9


# ---------------------------------------------------------------- target


@pytest.mark.parametrize(
    ("target", "column", "features"),
    [
        ("-1", 2, ["a", "b"]),
        ("2", 2, ["a", "b"]),
        ("b", 1, ["a", "y"]),
        ("0", 0, ["b", "y"]),
        ("-3", 0, ["b", "y"]),
    ],
)
def test_the_target_is_found_by_name_and_index(target, column, features):
    X, y = split_target(Table(VALUES, ("a", "b", "y")), target)
    assert X.names == tuple(features)
    np.testing.assert_array_equal(y, VALUES[:, column])
    np.testing.assert_array_equal(X.values, FRAME[features])


def test_columns_without_names_are_numbered():
    X, y = split_target(Table(VALUES), "0")
    assert X.names == ("x0", "x1")
    np.testing.assert_array_equal(np.column_stack([y, X.values]), VALUES)


@pytest.mark.parametrize("target", ["z", "3", "-4", "", "1.0"])
def test_a_target_that_is_not_there_is_named(target):
    with pytest.raises(
        JobError, match=f"target='{target}' is not a column; there are 'a', 'b', 'y'"
    ):
        split_target(Table(VALUES, ("a", "b", "y")), target)
    with pytest.raises(JobError, match="there are 3, without names"):
        split_target(Table(VALUES), target)


# ---------------------------------------------------------------- hyperparameters


@pytest.fixture
def parser():
    parser = HyperparameterParser()
    parser.add_argument("--df", type=int, default=15)
    parser.add_argument("--target", default="-1")
    parser.add_argument("--train-file")
    return parser


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"df": 15, "target": "-1", "train_file": None}),
        (["--df", "7"], {"df": 7}),
        (["--df=7"], {"df": 7}),
        (["--df", '"7"'], {"df": 7}),
        (["--df='7'"], {"df": 7}),
        (["--target", "-2"], {"target": "-2"}),
        (["--target", "-log"], {"target": "-log"}),
        (["--target", '"my column"'], {"target": "my column"}),
        (["--target", '"'], {"target": '"'}),
        (["--target", ""], {"target": ""}),
        (["--train_file", "a_b=c.csv", "--df", "5"], {"train_file": "a_b=c.csv", "df": 5}),
        (["--train-file=a_b.csv"], {"train_file": "a_b.csv"}),
    ],
)
def test_hyperparameters_are_read_quoted_or_not(parser, arguments, expected):
    read = vars(parser.parse_args(arguments))
    assert {name: read[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dff", "5"], "unknown hyperparameter 'dff'; did you mean 'df'?"),
        (["--train_fil", "5"], "'train-fil'; did you mean 'train-file'? (known: df, target, tr"),
        (["--d", "5"], "unknown hyperparameter 'd'"),
        (["-d", "5"], "unknown hyperparameter 'd'; did you mean 'df'?"),
        (["-h", ""], "unknown hyperparameter 'h'"),
        (["--help", ""], "unknown hyperparameter 'help'"),
        (["--df", "many"], "argument --df: invalid int value: 'many'"),
        (["--df", ""], "argument --df: invalid int value: ''"),
        (["--df"], "argument --df: expected one argument"),
        (["--df", "5", "6"], "unexpected argument '6'"),
        (["5"], "unexpected argument '5'"),
    ],
)
def test_bad_hyperparameters_are_named(parser, arguments, message):
    with pytest.raises(JobError, match=re.escape(message)):
        parser.parse_args(arguments)


# ---------------------------------------------------------------- the process


@pytest.fixture
def run_program(tmp_path):
    """Start a program whose ``train`` has the given body."""
    (tmp_path / "model").mkdir()
    started = []

    def start(body):
        program = tmp_path / "program.py"
        program.write_text(
            "import time\nimport numpy as np\nfrom program_toolkit import job\n"
            "def train(job, arguments):\n"
            "    (job.model_dir / 'sub').mkdir()\n"
            "    (job.model_dir / 'sub' / 'half').touch()\n"
            "    (job.model_dir / 'model').touch()\n"
            + textwrap.indent(textwrap.dedent(body), "    ")
            + "\njob.run(lambda parser: None, train)\n"
        )
        process = subprocess.Popen(
            [sys.executable, program],
            env={
                **os.environ,
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "SM_MODEL_DIR": str(tmp_path / "model"),
                "SM_OUTPUT_DIR": str(tmp_path / "output"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_success_leaves_the_model_and_no_failure(run_program, tmp_path):
    process = run_program("pass")
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model", "sub"]
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("body", "failure", "traced"),
    [
        ("raise job_module.JobError('mend \\udcff it')", "mend ? it", False),
        ("1 / 0", "unexpected ZeroDivisionError: division by zero", True),
    ],
)
def test_failure_leaves_one_sentence_and_no_model(run_program, tmp_path, body, failure, traced):
    process = run_program(f"from program_toolkit import job as job_module\n{body}")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert (tmp_path / "output" / "failure").read_text() == failure
    assert list((tmp_path / "model").iterdir()) == []
    assert ("Traceback" in log) == traced  # for the log of the owner; never for FailureReason
    assert "training failed: " in log.splitlines()[-1]


@pytest.mark.parametrize(
    "work",
    [
        "while True: pass",
        # A program may not take the signal for an error of its own.
        "while True:\n    try: time.sleep(0)\n    except Exception: pass",
        # A handler of Python's would have to wait for LAPACK.
        "np.linalg.svd(matrix)",
    ],
    ids=["loop", "except", "lapack"],
)
def test_sigterm_ends_a_job_at_once(run_program, tmp_path, wait_until, work):
    prepare = "matrix = np.random.default_rng(0).normal(size=(6000, 6000))"
    process = run_program(f"{prepare}\nprint('begun', flush=True)\n{work}")
    assert process.stdout.readline() == "begun\n"

    def clock() -> float:
        return sum(psutil.Process(process.pid).cpu_times()[:2])  # of the user and of the system

    begun = clock()
    wait_until(lambda: clock() > begun + 0.2)  # deep in its work
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)  # the work takes far longer, but a busy machine is slow, too
    assert process.returncode == 1
    assert "stopped by SIGTERM" in (tmp_path / "output" / "failure").read_text()
    assert list((tmp_path / "model").iterdir()) == []

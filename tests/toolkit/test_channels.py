import bz2
import datetime
import functools
import gzip
import re
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest

from gam_model.dates import read_iso
from program_toolkit.channels import Progress
from program_toolkit.job import Job, JobError, split_target
from program_toolkit.table import Table

compress = functools.partial(gzip.compress, mtime=0)  # the same bytes whenever it is called
NAN = float("nan")
FRAME = pd.DataFrame(
    {"age": [30.0, NAN, 50.0, 60.0], "job": ["clerk", "smith", None, "clerk"], "y": [1, 2, 3, 4]}
)
ROWS = "[[30.0, 'clerk', 1.0], [nan, 'smith', 2.0], [50.0, None, 3.0], [60.0, 'clerk', 4.0]]"


@pytest.fixture
def channel(tmp_path):
    """The folder of the channel ``train``."""
    folder = tmp_path / "train"
    folder.mkdir()
    return folder


@pytest.fixture
def a_job(tmp_path, channel):
    return Job({"train": channel}, tmp_path / "model", tmp_path / "output")


def read(a_job, **how):
    return a_job.read("train", missing=True, text=True, **how)


def chunks(a_job, rows=100, **how):
    return a_job.chunks("train", rows=rows, missing=True, text=True, **how)


def joined(a_chunks):
    tables = list(a_chunks)
    return Table(np.concatenate([table.values for table in tables]), tables[0].names)


# ---------------------------------------------------------------- text and missing cells


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("csv", lambda frame, path: frame.to_csv(path, index=False)),
        ("parquet", lambda frame, path: frame.to_parquet(path, index=False)),
        ("parquet", lambda frame, path: frame.astype({"job": "category"}).to_parquet(path)),
        ("parquet", lambda frame, path: frame.astype({"job": object}).to_parquet(path)),
    ],
    ids=["csv", "parquet", "dictionary", "object"],
)
def test_reads_text_and_missing_cells(a_job, channel, ending, write):
    write(FRAME, channel / f"t.{ending}")
    for table in (read(a_job), joined(chunks(a_job, 3))):
        assert table.names == ("age", "job", "y")
        assert table.text() == [False, True, False]
        assert repr(table.values.tolist()) == ROWS


def test_truth_values_and_decimals_are_numbers(a_job, channel):
    import decimal

    frame = pd.DataFrame({"a": [True, False, None], "b": [decimal.Decimal("1.5"), None, 2]})
    frame.to_parquet(channel / "t.parquet")
    np.testing.assert_array_equal(read(a_job).values, [[1, 1.5], [0, NAN], [NAN, 2]])


@pytest.mark.parametrize("how", ["read", "chunks"])
@pytest.mark.parametrize(
    ("files", "allowed", "message"),
    [
        ({"t.csv": "a,b\n1,x\n"}, {"missing": True}, "t.csv: line 2, column 'b': 'x' is not a"),
        ({"t.csv": "a,b\nx,y\nz,\n"}, {"text": True}, "t.csv: row 2, column 'b' is missing"),
        ({"t.csv": "x,1\nz,\n"}, {"text": True}, "t.csv: row 2, column 2 is missing"),
        ({"t.csv": "x,1\n,1\n"}, {"text": True}, "t.csv: row 2, column 1 is missing"),
        ({"t.csv": "x,1\n,inf\n"}, {"text": True, "missing": True}, "column 2 is inf; fill or"),
        ({"t.csv": "1,2\n3,inf\n"}, {"missing": True}, "t.csv: row 2, column 2 is inf"),
        ({"t.csv": "a,b\n"}, {"text": True}, "t.csv: there are no rows below the header 'a,b'"),
        ({"t.csv": "text\nx\n"}, {"text": True}, "t.csv has one column only"),
        ({"t.parquet": FRAME[["age", "job"]]}, {"missing": True}, "column 'job' is text, not num"),
        ({"t.parquet": FRAME}, {"text": True}, "t.parquet: row 2, column 'age' is missing"),
        ({"t.parquet": FRAME[2:]}, {"text": True}, "t.parquet: row 1, column 'job' is missing"),
        ({"t.parquet": FRAME[:0]}, {"text": True, "missing": True}, "t.parquet has no rows"),
        ({"t.parquet": FRAME[[]]}, {"text": True}, "t.parquet: it has no columns"),
        (
            {"t.parquet": FRAME.assign(job=datetime.time(1))},
            {"text": True, "missing": True},
            "t.parquet: column 'job' is time",
        ),
        (
            {"t.parquet": FRAME.assign(job=pd.Timestamp("2020-01-01"))},
            {"missing": True},
            "t.parquet: column 'job' is text, not numbers",
        ),
        (
            {"1.parquet": FRAME, "2.csv": "age,job\n1,x\n"},
            {"text": True, "missing": True},
            "2.csv: its columns are not those of 1.parquet",
        ),
    ],
)
def test_names_what_may_not_be_in_a_file(a_job, channel, how, files, allowed, message):
    for name, content in files.items():
        if isinstance(content, str):
            (channel / name).write_text(content)
        else:
            content.to_parquet(channel / name, index=False)
    with pytest.raises(JobError, match=re.escape(message)):
        getattr(a_job, how)("train", **allowed)


def test_a_column_that_is_text_in_one_part_is_text_in_all(a_job, channel):
    (channel / "1.csv").write_text("zip,y\n007,1\n,2\n")
    (channel / "2.csv").write_text("zip,y\nE14,3\n")
    pd.DataFrame({"zip": [8, 9.5], "y": [4, 5]}).to_parquet(channel / "3.parquet")
    expected = [["007", 1.0], [None, 2.0], ["E14", 3.0], ["8", 4.0], ["9.5", 5.0]]
    assert read(a_job).values.tolist() == expected
    for rows in (1, 2, 100):
        some = chunks(a_job, rows)
        assert joined(some).values.tolist() == expected
        assert all(table.text() == [True, False] for table in some)


# ---------------------------------------------------------------- chunks


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_chunks_hold_the_same_rows_as_often_as_asked(a_job, channel, ending, rows):
    values = np.random.default_rng(0).normal(size=(20, 3))
    for part, name in ((values[:11], "1"), (values[11:], "2")):
        if ending == "npy":
            np.save(channel / name, np.asfortranarray(part))
        elif ending == "csv":
            pd.DataFrame(part, columns=list("abc")).to_csv(channel / f"{name}.csv", index=False)
        else:
            pd.DataFrame(part, columns=list("abc")).to_parquet(channel / f"{name}.parquet")
    some = a_job.chunks("train", rows=rows)
    assert some.n_samples == 20
    assert some.names == (None if ending == "npy" else ("a", "b", "c"))
    for _ in range(2):
        assert max(len(table.values) for table in some) == min(rows, 11)
        np.testing.assert_array_equal(joined(some).values, values)
    np.testing.assert_array_equal(a_job.read("train").values, values)
    inner = iter(some)  # one pass does not disturb another
    next(inner)
    assert len(joined(some).values) == 20
    assert sum(len(table.values) for table in inner) == 20 - min(rows, 11)


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_a_quoted_cell_may_span_lines_and_chunks(a_job, channel, rows):
    (channel / "t.csv").write_bytes(
        b'\xef\xbb\xbftext,"y"\r\n\r\n"a\r\n\r\n\r\nb, ""c""",1\r\n\r\nd,2\r\n"e\n",3\n\n\n\n'
    )
    some = chunks(a_job, rows)
    assert joined(some).values.tolist() == [['a\n\n\nb, "c"', 1], ["d", 2], ["e", 3]]
    assert max(len(table.values) for table in some) <= rows
    with (channel / "t.csv").open("a") as file:
        file.write('"x\ny",4\nz\n')
    with pytest.raises(JobError, match=r"t\.csv: line 16 has 1 cells where 2 are expected"):
        chunks(a_job, rows)


def test_what_is_wrong_far_down_is_named_by_its_place(a_job, channel):
    lines = ["a,b", *["1,2"] * 10, "3,x", "4,"]
    (channel / "t.csv").write_text("\n".join(lines))
    with pytest.raises(JobError, match="line 12, column 'b': 'x' is not a number"):
        a_job.chunks("train", rows=4)
    with pytest.raises(JobError, match="row 12, column 'b' is missing"):
        a_job.chunks("train", rows=4, text=True)
    (channel / "t.csv").write_text("\n".join([*lines[:11], "1"]))
    with pytest.raises(JobError, match="line 12 has 1 cells where 2 are expected"):
        a_job.chunks("train", rows=4)


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_chunks_need_little_memory(a_job, channel, ending):
    values = np.random.default_rng(0).integers(0, 99, size=(100_000, 4)).astype(float)
    if ending == "npy":
        np.save(channel / "t", values)
    else:
        frame = pd.DataFrame(values, columns=list("abcd"))
        to_file = frame.to_csv if ending == "csv" else frame.to_parquet
        to_file(channel / f"t.{ending}", index=False)
    next(iter(a_job.chunks("train", rows=1000)))  # what imports cost
    tracemalloc.start()
    try:
        some = a_job.chunks("train", rows=1000)
        total = sum(table.values.sum() for table in some)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == values.sum()
    assert peak < values.nbytes / 4


def test_dates_of_parquet_are_the_text_that_csv_has(a_job, channel):
    when = pd.to_datetime(["2024-05-01 12:00:00.0", None, "2024-05-02 00:00:01.5"])
    frame = pd.DataFrame({"naive": when, "zone": when.tz_localize("Europe/Berlin")})
    frame["day"], frame["span"], frame["y"] = when.date, when - when[0], 1.0
    frame.to_parquet(channel / "t.parquet")
    days = []
    for cells in read(a_job).values.T[:4]:
        unit = "duration" if str(cells[0]).startswith("P") else "date"
        days.append([None if cell is None else read_iso(cell, unit) for cell in cells])
    later = 19845 + 1.5 / 86_400
    assert days[0] == [19844.5, None, later]
    assert days[1] == [19844 + 10 / 24, None, 19844 + (22 * 3600 + 1.5) / 86_400]
    assert days[2] == [19844, None, 19845]
    assert days[3] == [0, None, 43201.5 / 86_400]


def test_size_counts_the_bytes_that_are_read(a_job, channel):
    (channel / "1.csv").write_text("1,2\n")
    (channel / "2.csv").write_text("1,2\n3,4\n")
    (channel / "_SUCCESS").write_text("done")
    assert a_job.size("train") == 12
    assert a_job.size("train", "2.csv") == 8
    with pytest.raises(JobError, match="no channel 'test'"):
        a_job.size("test")


# ---------------------------------------------------------------- progress


def test_progress_says_little(monkeypatch, capsys):
    clock = iter([0, 0, *(9, 9), *(10, 10, 10, 10), *(19, 19), *(20.5, 20.5, 20.5, 20.5)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    first, second = Progress("pass 1", 0), Progress("pass 2", 10_000_000)
    for rows in (1_000_000, 3_400_000, 5_000_000, 10_000_000):
        first.show(rows)
        second.show(rows)
    assert capsys.readouterr().out.splitlines() == [
        "pass 1: 3,400,000 rows",
        "pass 2: 3,400,000 of 10,000,000 rows (34 %)",
        "pass 1: 10,000,000 rows",
        "pass 2: 10,000,000 of 10,000,000 rows (100 %)",
    ]


def test_passes_are_numbered(a_job, channel, monkeypatch, capsys):
    (channel / "t.csv").write_text("1,2\n3,4\n")
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    list(a_job.chunks("train", progress=True))
    assert capsys.readouterr().out == "pass 1: 2 rows\npass 2: 2 of 2 rows (100 %)\n"
    list(a_job.chunks("train"))
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- the target


def test_the_target_leaves_text_behind(a_job, channel):
    FRAME.to_csv(channel / "t.csv", index=False)
    X, y = split_target(read(a_job), "y")
    assert y.dtype == np.float64
    assert y.tolist() == [1, 2, 3, 4]
    assert repr(X.frame().values.tolist()) == repr([row[:2] for row in X.values.tolist()])
    assert X.frame().dtypes.tolist() == [np.float64, object]


def test_a_target_of_labels_leaves_numbers_behind():
    table = Table.of_columns([["ham", "spam"], [1.0, NAN]], ("label", "x"))
    X, y = split_target(table, "0", text=True)
    assert y.tolist() == ["ham", "spam"]
    assert X.values.dtype == np.float64
    with pytest.raises(
        JobError, match="the target, column 'label', is text, 'ham' in row 1; expected numbers"
    ):
        split_target(table, "label")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table(np.array([[1.0, 1.0], [NAN, 1.0]]), ("y", "x")), "column 'y', is missing in row 2"),
        (Table.of_columns([["a", None, None], [1.0] * 3]), "column 1, is missing in row 2"),
    ],
)
def test_a_missing_target_is_named(table, message):
    with pytest.raises(JobError, match=message):
        split_target(table, "0", text=True)


# ---------------------------------------------------------------- what a file is like


TABLE = [[1.5, 2.0, 3.0], [4.0, 5.5, 6.0], [7.0, 8.0, 9.5]]
LINES = "1.5,2,3\n4,5.5,6\n7,8,9.5\n"


def heard(a_job, **how):
    """Return the table, and what was warned of while it was read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = read(a_job, **how)
    return table, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", compress(LINES.encode())),
        ("t.CSV.bz2", bz2.compress(LINES.encode())),
        ("t.tsv", LINES.replace(",", "\t").encode()),
        ("t.tsv.gz", compress(LINES.replace(",", "\t").encode())),
        ("t.csv", LINES.replace(",", "\t").encode()),
        ("t.csv", LINES.replace(",", ";").encode()),
        ("t.csv", LINES.replace(",", ";").replace(".", ",").encode()),
        ("t.csv", LINES.replace(",", " | ").encode()),
        ("part-00000", LINES.encode()),
        ("part-00000.gz", compress(LINES.encode())),
        ("part-00000", compress(LINES.encode())),
        ("000000_0", LINES.replace(",", ";").encode()),
    ],
)
def test_reads_what_others_write(a_job, channel, name, content):
    (channel / name).write_bytes(content)
    table, said = heard(a_job)
    assert table.names is None
    np.testing.assert_array_equal(table.values, TABLE)
    np.testing.assert_array_equal(joined(chunks(a_job, 2)).values, TABLE)
    assert said == []


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_part_files_of_any_format_need_no_ending(a_job, channel, ending):
    if ending == "npy":
        np.save(channel / "t.npy", np.array(TABLE))
    else:
        pd.DataFrame(TABLE, columns=list("abc")).to_parquet(channel / "t.parquet")
    (channel / f"t.{ending}").rename(channel / "part-00000")
    np.testing.assert_array_equal(read(a_job).values, TABLE)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a;b\n1,5;x, y\n;z\n", [[1.5, "x, y"], [NAN, "z"]]),
        ('a,b\n1.5,"x; y"\n,z;z\n', [[1.5, "x; y"], [NAN, "z;z"]]),
        ("a\tb\n\t\n1\tx\n\t\n", [[NAN, None], [1.0, "x"], [NAN, None]]),
        ("1;2,5\n3;4\n", [[1.0, 2.5], [3.0, 4.0]]),
        ("1,5;2,5\n3,25;4,5\n", [[1.5, 2.5], [3.25, 4.5]]),
        ("x;y,1\nz;y,2\n", [["x;y", 1.0], ["z;y", 2.0]]),
    ],
)
def test_a_delimiter_is_what_makes_cells_of_all_lines(a_job, channel, text, rows):
    (channel / "t.csv").write_text(text)
    for table in (read(a_job), joined(chunks(a_job, 1))):
        assert repr(table.values.tolist()) == repr(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b\né,1\n".encode("latin-1"), "t.csv is not UTF-8 text: b'\\xe9' is not a"),
        ("t.csv.gz", compress(LINES.encode())[:-9], "t.csv.gz cannot be unpacked"),
        ("t.csv", b"a,,b\n1,2,3\n", "t.csv: column 2 has no name; name it, or drop it"),
        ("t.xls", b"x", "t.xls: unknown ending; expected one of .csv, .npy, .parquet, .tsv"),
    ],
)
def test_names_what_cannot_be_read(a_job, channel, name, content, message):
    (channel / name).write_bytes(content)
    for how in (read, chunks):
        with pytest.raises(JobError, match=re.escape(message)):
            how(a_job)


@pytest.mark.parametrize(
    ("text", "names", "n_rows", "said"),
    [
        # Plain headers and plain rows are no matter of doubt.
        ("a,b\n1,2\n3,4\n", ("a", "b"), 2, None),
        ("1,2\n3,4\n", None, 2, None),
        ("job,town\nclerk,Rome\nsmith,Oslo\n", ("job", "town"), 2, None),
        ("NA,red\n41,blue\n", None, 2, None),
        ("NA,1\n41,2\n", None, 2, None),
        ("unknown,red,1.5\n41,blue,2.5\n", None, 2, None),
        # What pandas writes of columns without names.
        ("0,1,2\n5,6,7\n", ("0", "1", "2"), 1, "'0,1,2', was taken for the header: it only"),
        ("0,1\n5.5,6\n", ("0", "1"), 1, "taken for the header: it only counts the columns; head"),
        ("0,1\n1,2\n", None, 2, "was taken for a row: it only counts the columns; header=present"),
        (",0,1\n0,5,6\n1,7,8\n", ("0", "1"), 2, "column 1 has no name: it was taken for an index"),
        # What else may be either.
        ("age,2019,y\n41,3,4\n", ("age", "2019", "y"), 1, "the header: a name stands above numb"),
        ("cook,yes\nclerk,no\nsmith,yes\n", None, 3, "for a row: 'yes' stands below again; head"),
        ("age,yes\n41,yes\n", ("age", "yes"), 1, "a name stands above numbers, though 'yes' s"),
        # Columns without names.
        (",a,b\n7,1,2\n9,3,4\n", ("a", "b"), 2, "column 1 has no name: it was taken for an ind"),
        (",job,b\nx,u,2\ny,v,4\n", ("job", "b"), 2, "column 1 has no name: it was taken for an"),
        ("Unnamed: 0,a,b\n0,1,2\n", ("a", "b"), 1, "column 1 is called 'Unnamed: 0': it was tak"),
        ("a,b,\n1,2,\n3,4,\n", ("a", "b"), 2, "column 3 has neither a name nor a value, and was"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_done_in_doubt_is_said(a_job, channel, text, names, n_rows, said):
    (channel / "t.csv").write_text(text)
    table, warned = heard(a_job)
    assert (table.names, len(table.values)) == (names, n_rows)
    assert bool(warned) == bool(said)
    assert not said or any(said in message for message in warned)
    for rows in (1, 2):
        assert repr(joined(chunks(a_job, rows)).values.tolist()) == repr(table.values.tolist())


@pytest.mark.parametrize(("header", "n_rows"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("text", ["0,1,2\n5,6,7\n", "a,b,c\n5,6,7\n", "cook,yes\nclerk,yes\n"])
def test_the_owners_word_about_a_header_counts(a_job, channel, text, header, n_rows):
    (channel / "t.csv").write_text(text)
    table, warned = heard(a_job, header=header)
    assert warned == []
    assert len(table.values) == n_rows
    assert (table.names is not None) == header


@pytest.mark.filterwarnings("ignore")
def test_an_index_is_left_out_beside_text_of_any_file(a_job, channel):
    (channel / "1.csv").write_text(",zip,y\n0,007,1\n")
    (channel / "2.csv").write_text(",zip,y\n1,E14,2\n")
    for table in (read(a_job), joined(chunks(a_job, 1))):
        assert table.names == ("zip", "y")
        assert table.values.tolist() == [["007", 1.0], ["E14", 2.0]]


@pytest.mark.filterwarnings("ignore")
def test_a_column_without_a_name_may_not_turn_out_to_hold_values(a_job, channel):
    (channel / "t.csv").write_text("a,b,\n" + "1,2,\n" * 1500 + "1,2,3\n")
    with pytest.raises(JobError, match="column 3 has no name; name it, or drop it"):
        chunks(a_job, 1000)


def test_a_parquet_index_by_name_is_left_out(a_job, channel):
    frame = pd.DataFrame({"Unnamed: 0": [0, 1], "a": [1, 2], "y": [3, 4]})
    frame.to_parquet(channel / "t.parquet")
    table, (said, *_) = heard(a_job)
    assert table.names == ("a", "y")
    assert "column 1 is called 'Unnamed: 0'" in said


def test_a_channel_may_be_called_as_the_sdk_calls_it(tmp_path, channel):
    (channel / "t.csv").write_text(LINES)
    a_job = Job({"training": channel}, tmp_path / "model", tmp_path / "output")
    for name in ("train", "train_data", "training"):
        assert len(a_job.read(name).values) == 3
    with pytest.raises(JobError, match="no channel 'test'"):
        a_job.read("test")

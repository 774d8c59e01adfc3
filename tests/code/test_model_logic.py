import html
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest

import model_logic
from gam_model import GAMRegressor
from program_toolkit import payload
from program_toolkit.payload import JSON, PayloadError

CODE = Path(model_logic.__file__).parent


def csv(table) -> str:
    return "".join(",".join(map(repr, row)) + "\n" for row in np.asarray(table).tolist())


def people(n_rows=300, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        rng.uniform(size=(n_rows, 3)) * [60, 9, 4] + [18, 1, -2],
        columns=["age", "claims, paid", "debt"],
    )
    risk = np.sin(frame["age"] / 9) + frame["debt"] ** 2
    frame.insert(1, "risk", risk + rng.normal(scale=0.05, size=n_rows))
    return frame


# ---------------------------------------------------------------- the real ``train``


@pytest.fixture(scope="module")
def gauss3_job(training_job, gauss3_split):
    """CSV without header, as the notebook sends it; other files lie in the channel, too."""
    return training_job(
        {
            "train/train.csv": csv(gauss3_split.train),
            "train/readme.txt": "not data",
            "test/test.csv": csv(gauss3_split.test),
        },
        {"train-file": '"train.csv"', "test_file": "test.csv", "df": '"15"', "alpha": "1.0"},
    ).run()


def test_gauss3_trains(gauss3_job, gauss3_split):
    assert gauss3_job.exit_code == 0, gauss3_job.log
    metrics = {
        name: float(re.search(rf"{name}=(.*?);", gauss3_job.log)[1])
        for name in ("r2_train", "rmse_train", "r2_test", "rmse_test")
    }
    assert metrics["r2_train"] >= 0.99
    assert metrics["r2_test"] >= 0.99

    model = model_logic.model_fn(str(gauss3_job.model_dir))
    x, y = gauss3_split.test.T
    residual = y - model.predict(x[:, None])
    r2 = 1 - residual @ residual / np.sum((y - y.mean()) ** 2)
    assert metrics["r2_test"] == pytest.approx(r2, rel=1e-5)
    assert metrics["rmse_test"] == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-5)
    assert "Deviance explained" in gauss3_job.log


def test_gauss3_trains_with_automatic_smoothing(training_job, gauss3_split):
    files = {"train/train.csv": csv(gauss3_split.train), "test/test.csv": csv(gauss3_split.test)}
    job = training_job(files, {"df": "30", "alpha": '"auto"'}).run()
    assert job.exit_code == 0, job.log
    assert float(re.search(r"r2_test=(.*?);", job.log)[1]) >= 0.996
    assert json.loads((job.model_dir / "model.json").read_text())["hyperparameters"]["df"] == 30


def test_shapes_are_given_by_column(training_job):
    """As JSON, which the training toolkit hands over as Python."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.uniform(size=200), "dose": rng.uniform(size=200)})
    table["y"] = np.sin(9 * table["age"]) + table["dose"] ** 3 + rng.normal(scale=0.1, size=200)
    asked = {
        "monotonic_cst": '{"age": 1}', "linear": '["dose"]', "df": '{"age": 9}', "select": "true",
        "knots": '{"age": [0.2, 0.3, 0.4]}', "extrapolate": '{"age": "constant"}',
    }  # fmt: skip
    job = training_job({"train/t.csv": table.to_csv(index=False)}, asked).run()
    assert job.exit_code == 0, job.log
    age, dose = json.loads((job.model_dir / "gam.json").read_text())["terms"]
    assert age["knots"][4:-4] == [0.2, 0.3, 0.4]
    assert (age["extrapolate"], dose["extrapolate"]) == ("constant", "linear")
    assert (np.diff(age["coef"]) >= 0).all()
    assert len(dose["coef"]) == 2


@pytest.mark.parametrize("text", ['{"a": 1, "b": -2}', "a=1,b=-2", "{'a': 1, 'b': -2}"])
def test_a_value_by_column_is_read_however_it_comes(text):
    found = model_logic.by_column(int)(text)
    assert found == {"a": 1, "b": -2}
    assert model_logic.by_column(int)("3") == 3
    assert model_logic.by_column()("a=[1, 2],b=[3]") == {"a": [1, 2], "b": [3]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--monotonic_cst", '{"agee": 1}'], "monotonic_cst names the feature 'agee'"),
        (["--linear", "[age"], "'[age' is not JSON"),
        (["--df", '{"age": 2}'], "df must be an integer of at least degree + 1 = 4, got df=2"),
    ],
)
def test_shapes_that_cannot_be_are_refused_in_a_sentence(run, asked, message):
    table = pd.DataFrame({"age": np.arange(30.0), "y": np.arange(30.0)})
    code, _, log = run({"train/t.csv": table.to_csv(index=False)}, *asked)
    assert code != 0
    assert message in log


@pytest.mark.parametrize(("atoms", "held"), [("auto", [0.0, 7.0]), ("none", None)])
def test_shared_values_may_deviate_unless_told_not_to(training_job, atoms, held):
    rng = np.random.default_rng(0)
    x = np.where(rng.random(800) < 0.4, rng.choice([0.0, 7.0], 800), rng.uniform(0, 9, 800))
    y = np.sin(x) + 2.0 * (x == 0) - 3.0 * (x == 7) + 0.2 * rng.normal(size=800)
    job = training_job({"train/t.csv": csv(np.column_stack([x, y]))}, {"atoms": atoms}).run()
    assert job.exit_code == 0, job.log
    (term,) = json.loads((job.model_dir / "gam.json").read_text())["terms"]
    assert term.get("atoms", [None])[0] == held


def test_gauss3_is_described(gauss3_job, gauss3_split):
    assert sorted(path.name for path in gauss3_job.model_dir.iterdir()) == [
        "gam.json",
        "model.joblib",
        "model.json",
    ]
    described = json.loads((gauss3_job.model_dir / "model.json").read_text())
    for name in ("gam-model", "joblib", "numpy", "scikit-learn", "scipy", "statsmodels"):
        assert described["libraries"][name] == importlib.metadata.version(name)
    assert described["libraries"]["python"] == ".".join(map(str, sys.version_info[:3]))
    x = gauss3_split.train[:, 0]
    feature = {"name": "x0", "min": x.min(), "max": x.max(), "missing": False}
    assert described["features"] == [feature]
    assert described["statistics"]["explained"] == pytest.approx(described["metrics"]["r2_train"])
    given = {"df": 15, "alpha": 1.0, "degree": 3, "extrapolate": "linear"}
    assert given.items() <= described["hyperparameters"].items()
    assert set(described["metrics"]) == {"r2_train", "rmse_train", "r2_test", "rmse_test"}
    logged = re.search(r"r2_test=(.*?);", gauss3_job.log)[1]
    assert f"{described['metrics']['r2_test']:.6g}" == logged


@pytest.mark.parametrize(
    ("files", "hyperparameters", "failure"),
    [
        ({}, {}, "no channel 'train' (channels: none); pass it to fit()"),
        (
            {"train/t.csv": "age,risk\n1,2\n3,x\n"},
            {},
            "the target, column 'risk', is text, 'x' in row 2; expected numbers",
        ),
        ({"train/t.csv": "1,2\n"}, {"alhpa": "1"}, "'alhpa'; did you mean 'alpha'?"),
        ({"train/t.csv": "1,2\n2,3\n"}, {"h": "1"}, "unknown hyperparameter 'h'"),
    ],
)
def test_bad_input_fails_the_job_in_one_sentence(training_job, files, hyperparameters, failure):
    job = training_job(files, hyperparameters).run()
    assert job.exit_code == 1
    assert failure in job.failure
    assert "\n" not in job.failure
    assert "Traceback" not in job.failure
    assert list(job.model_dir.iterdir()) == []


def test_sigterm_stops_a_long_job(training_job, wait_until):
    # Some 40 s of work.
    X = np.random.default_rng(0).normal(size=(40_000, 9))
    stream = io.BytesIO()
    np.save(stream, X)
    job = training_job({"train/t.npy": stream.getvalue()}, {"df": "400"})
    process = job.start()
    try:
        next(line for line in process.stdout if line.startswith("Invoking script"))
        wait_until(psutil.Process(process.pid).children)
        (program,) = psutil.Process(process.pid).children()
        wait_until(lambda: program.cpu_times().user > 2.5)  # it is fitting
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)  # of some 40 s of work
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "stopped by SIGTERM" in job.failure
    assert list(job.model_dir.iterdir()) == []


def test_sigterm_stops_a_job_whose_program_has_not_begun(training_job):
    job = training_job({"train/t.csv": "1,2\n"})
    # The toolkit waits, for a quarter of an hour, until its host's name resolves.
    hosts = {"current_host": "algo-1.invalid", "hosts": ["algo-1.invalid"]}
    job.configure("resourceconfig", hosts)
    process = job.start()
    try:
        # What it says last; by then SIGTERM has long had its handler.
        next(line for line in process.stdout if "abandoning unzipping" in line)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert job.failure == "stopped by SIGTERM before the program was started"
    assert list(job.model_dir.iterdir()) == []


# ---------------------------------------------------------------- the program itself


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run the program in this process as the toolkit would; return exit code, failure, log."""

    def run(files, *arguments):
        for folder in ("input", "model"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
            (tmp_path / folder).mkdir()
        channels = sorted({name.partition("/")[0] for name in files})
        for name, content in files.items():
            path = tmp_path / "input" / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, pd.DataFrame):
                content.to_parquet(path)
            elif isinstance(content, np.ndarray):
                np.save(path, content)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        monkeypatch.setenv("SM_CHANNELS", json.dumps(channels))
        for channel in channels:
            monkeypatch.setenv(f"SM_CHANNEL_{channel.upper()}", str(tmp_path / "input" / channel))
        monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
        monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))  # or the program sets it
        monkeypatch.setenv("SM_OUTPUT_DIR", str(tmp_path / "output"))
        monkeypatch.setattr(sys, "argv", ["model_logic.py", *arguments])
        with pytest.raises(SystemExit) as end:
            model_logic.run(model_logic.add_arguments, model_logic.train)
        failure = tmp_path / "output" / "failure"
        log = "".join(capfd.readouterr())
        return end.value.code, failure.read_text() if failure.exists() else None, log

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)
    signal.set_wakeup_fd(-1)


FRAME = people()


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({"train/t.csv": FRAME.to_csv(index=False)}, ["--target", "risk"]),
        ({"train/t.csv": FRAME.to_csv(index=False)}, ["--target", "1"]),
        ({"train/t.csv": FRAME.to_csv(index=False)}, ["--target=-3"]),
        (
            {
                "train/1.csv": FRAME[:100].to_csv(index=False),
                "train/2.csv": "\ufeff"
                + FRAME[100:200].to_csv(index=False, lineterminator="\r\n"),
                "train/3.parquet": FRAME[200:],
            },
            ["--target", "risk"],
        ),
        ({"train/t.parquet": FRAME}, ["--target", '"risk"']),
        ({"train/t.parquet": FRAME.sample(frac=1, random_state=1)}, ["--target", "risk"]),
    ],
    ids=["name", "index", "from the end", "three files", "parquet", "shuffled parquet"],
)
def test_trains_from_every_format_with_names(run, tmp_path, files, arguments):
    code, _, log = run(files, *arguments, "--df", "8", "--alpha", "0.1")
    assert code == 0, log
    model = model_logic.model_fn(str(tmp_path / "model"))
    assert model.features == ("age", "claims, paid", "debt")
    assert "debt" in log  # in the summary
    X = FRAME[list(model.features)]
    assert (FRAME["risk"] - model.predict(X)).std() < 0.06
    estimator = joblib.load(tmp_path / "model" / "model.joblib")
    np.testing.assert_array_equal(estimator.predict(X), model.predict(X))
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["features"] == [
        {"name": name, "min": FRAME[name].min(), "max": FRAME[name].max(), "missing": False}
        for name in model.features
    ]


def test_trains_from_npy_and_headless_csv_alike(run, tmp_path):
    table = FRAME[["age", "debt", "risk"]].to_numpy()
    predictions = []
    for files in ({"train/t.npy": table}, {"train/t.csv": csv(table)}):
        code, _, log = run(files, "--df=9")
        assert code == 0, log
        model = model_logic.model_fn(str(tmp_path / "model"))
        assert model.features == ("x0", "x1")
        predictions.append(model.predict(table[:, :2]))
    np.testing.assert_array_equal(*predictions)


def test_a_constant_target_and_a_constant_feature_train(run):
    rows = [[x, 7.0, 0.1] for x in range(20)]
    code, _, log = run({"train/t.csv": csv(rows)}, "--df=6")
    assert code == 0, log
    assert float(re.search(r"rmse_train=(.*?);", log)[1]) == pytest.approx(0, abs=1e-9)


def workers(n_rows=400) -> pd.DataFrame:
    """Text, a missing cell here and there, and a target that both explain."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 70, size=n_rows).round(3),
            "job": rng.choice(["clerk", "cook", "judge"], size=n_rows),
        }
    )
    frame["pay"] = np.sin(frame["age"] / 10) + 2 * (frame["job"] == "judge")
    frame["pay"] += rng.normal(scale=0.05, size=n_rows)
    frame.loc[::10, "age"] = None
    frame.loc[::17, "job"] = None
    return frame


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_categories_and_holes_need_no_preparation(run, tmp_path, form):
    frame = workers()
    files = (
        {"train/t.csv": frame.to_csv(index=False)} if form == "csv" else {"train/t.parquet": frame}
    )
    code, _, log = run(files, "--target", "pay")
    assert code == 0, log
    assert float(re.search(r"r2_train=(.*?);", log)[1]) > 0.8
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["features"][1] == {
        "name": "job",
        "levels": ["clerk", "cook", "judge"],
        "missing": True,
    }
    report = (tmp_path / "output" / "data" / "report.html").read_text()
    assert "judge" in report
    assert '<th scope="row">r2</th>' in report
    model = model_logic.model_fn(str(tmp_path / "model"))
    records = [
        {"age": 40, "job": "judge"},
        {"job": None, "age": None},
        {"age": 40, "job": "pilot"},
    ]
    asked = [(json.dumps(records), JSON), ("judge,40\n,\npilot,40\n", "text/csv")]
    asked[1] = ("job,age\n" + asked[1][0], asked[1][1])
    for body, media in asked:
        answer = model_logic.predict_fn(model_logic.input_fn(body.encode(), media), model)
        explanation = answer.explain()
        assert explanation.values["job"][2] == 0  # a level that training has not seen
        total = explanation.base + sum(explanation.values.values())
        np.testing.assert_allclose(total, answer.prediction)
        assert answer.prediction[0] - answer.prediction[2] > 1


@pytest.mark.parametrize("interactions", ['[["age", "job"]]', "auto", "1"])
def test_pairs_are_explained_beside_the_features(run, tmp_path, interactions):
    frame = workers(2000)
    frame["pay"] += np.where(frame["job"] == "cook", -1, 1) * (frame["age"].fillna(45) - 45) / 10
    files = {"train/t.csv": frame.to_csv(index=False)}
    code, _, log = run(files, "--target", "pay", "--interactions", interactions)
    assert code == 0, log
    assert "age & job" in log  # in the summary
    assert "page.html is left out" in log
    assert not (tmp_path / "output" / "data" / "page.html").exists()
    report = (tmp_path / "output" / "data" / "report.html").read_text()
    assert "age &amp; job" in report
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["interactions"] == [["age", "job"]]
    model = model_logic.model_fn(str(tmp_path / "model"))
    body = json.dumps([{"age": 30, "job": "cook"}, {"age": None, "job": "pilot"}]).encode()
    table = model_logic.input_fn(body, JSON)
    (answer,) = ask(table, model, "application/json; explain=true")
    values, pairs = answer["shap_values"], answer["interaction_values"]
    assert list(pairs) == ["age & job"]
    total = answer["shap_base"] + np.sum(list(values.values()), axis=0)
    np.testing.assert_allclose(total, answer["prediction"])
    assert pairs["age & job"][0] > 0.5  # beside the line that all jobs have in common
    lines = ask(table, model, "application/jsonlines; explain=true")
    for row, line in enumerate(lines):
        assert line["interaction_values"] == {"age & job": pairs["age & job"][row]}


def contracts(n_rows=400) -> pd.DataFrame:
    """What real tables have: an id, dates with and without a time, and a free text."""
    rng = np.random.default_rng(0)
    since = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, n_rows), unit="D")
    frame = pd.DataFrame(
        {
            "id": [f"c{k:05d}" for k in range(n_rows)],
            "since": since,
            "seen": since.tz_localize("UTC") + pd.to_timedelta(rng.integers(1, 9**6, n_rows), "s"),
            "note": [f"pays the rent of {k}" for k in range(n_rows)],
        }
    )
    frame["pay"] = np.sin((since - since[0]).days / 150) + rng.normal(scale=0.05, size=n_rows)
    frame.loc[::10, "since"] = None
    return frame


@pytest.mark.parametrize("limit", ["1000", "0"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_dates_are_read_and_ids_left_out(run, tmp_path, monkeypatch, form, limit):
    monkeypatch.setattr("program_toolkit.job.ROWS", 70)
    frame = contracts()
    files = (
        {"train/t.csv": frame.to_csv(index=False)} if form == "csv" else {"train/t.parquet": frame}
    )
    code, _, log = run(files, "--target", "pay", "--stream-above", limit)
    assert code == 0, log
    assert "left out: 'id' (identifiers), 'note' (free text)" in log
    assert float(re.search(r"r2_train=(.*?);", log)[1]) > 0.9
    model = model_logic.model_fn(str(tmp_path / "model"))
    assert model.units == {"since": "date", "seen": "date"}
    assert model.unused == ["id", "note"]
    described = json.loads((tmp_path / "model" / "model.json").read_text())["features"]
    low, high = frame["since"].min(), frame["since"].max()
    assert described[1] == {
        "name": "since",
        "min": f"{low:%Y-%m-%d}",
        "max": f"{high:%Y-%m-%d}",
        "unit": "date",
        "missing": True,
    }
    estimator = joblib.load(tmp_path / "model" / "model.joblib")
    X = frame.drop(columns="pay")[:30]
    lines = X.to_csv(index=False)
    records = json.loads(X.to_json(orient="records", date_format="iso"))
    for record in records:
        record["id"] = None
    for body, media in ((lines, "text/csv"), (json.dumps(records), JSON)):
        answer = model_logic.predict_fn(model_logic.input_fn(body, media), model)
        np.testing.assert_array_equal(answer.prediction, estimator.predict(X))
        assert not answer.explain().values["id"].any()
    records[3]["since"] = "last May"
    with pytest.raises(PayloadError, match="row 3, 'since': 'last May' is not a date in ISO 8601"):
        model_logic.predict_fn(model_logic.input_fn(json.dumps(records), JSON), model)


@pytest.mark.parametrize("limit", ["1000", "0"])
def test_a_column_is_a_category_by_choice(run, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("program_toolkit.job.ROWS", 70)
    frame = contracts().assign(rooms=np.arange(400) % 3)
    files = {"train/t.csv": frame.drop(columns=["note", "seen"]).to_csv(index=False)}
    how = ["--target", "pay", "--categorical", "id, rooms", "--stream-above", limit]
    code, _, log = run(files, *how)
    assert code == 0, log
    model = model_logic.model_fn(str(tmp_path / "model"))
    assert len(model.levels["id"]) == 400
    assert model.levels["rooms"] == (0, 1, 2)
    code, failure, _ = run(files, "--target", "pay", "--categorical", "zip")
    assert code == 1
    assert "there is no column 'zip' to be a category" in failure


def test_a_large_channel_is_streamed_to_the_same_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr("program_toolkit.job.ROWS", 70)
    monkeypatch.setattr("program_toolkit.channels.Progress.__init__.__defaults__", (0.0,))
    frame = workers()
    files = {"train/1.csv": frame[:250].to_csv(index=False), "train/2.parquet": frame[250:]}
    files |= {"test/t.csv": frame[:50].to_csv(index=False)}
    models, logs = [], []
    for limit in ("1000", "0"):
        code, _, log = run(files, "--target", "pay", "--stream-above", limit)
        assert code == 0, log
        models.append(model_logic.model_fn(str(tmp_path / "model")))
        logs.append(re.sub(r"pass .*\n", "", log))
        streamed = "pass 3:" in log
    assert streamed
    assert logs[0] == logs[1]  # summary and metrics
    X = np.column_stack([np.linspace(20, 70, 60), np.tile([0, 1, 2], 20)])
    np.testing.assert_allclose(models[0].predict(X), models[1].predict(X), rtol=1e-9)


def test_a_binary_target(run, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    table = np.column_stack([x, rng.uniform(size=400) < 1 / (1 + np.exp(-3 * x))])
    code, _, log = run({"train/t.csv": csv(table)}, "--family", "binomial")
    assert code == 0, log
    assert 0.2 < float(re.search(r"log_loss_train=(.*?);", log)[1]) < 0.5
    model = model_logic.model_fn(str(tmp_path / "model"))
    answer = model_logic.predict_fn(payload.Table(np.array([[-3.0], [3.0]])), model)
    assert answer.prediction[0] < 0.1 < 0.9 < answer.prediction[1]
    assert answer.explain().scale == "link"


ROWS = csv([[x, x * x] for x in range(20)])


def labelled(zero, one, n_rows=200) -> str:
    """Rows of x and y, a label that is the likelier `one` the larger x is."""
    x = np.random.default_rng(0).normal(size=n_rows)
    odds = np.random.default_rng(1).uniform(size=n_rows) < 1 / (1 + np.exp(-3 * x))
    return pd.DataFrame({"x": x, "y": np.where(odds, one, zero)}).to_csv(index=False)


YES_NO = labelled("no", "yes")


@pytest.mark.parametrize("stream_above", ["1000", "0"])
@pytest.mark.parametrize(
    ("zero", "one", "arguments"),
    [
        ("no", "yes", []),
        ("False", "True", []),
        ("bad", "good", []),
        ("true", "false", ["--positive", "false"]),
        ("yes", "no", ["--positive", "no"]),
        ("0", "1", []),
        ("1", "0", ["--positive", "0"]),
        ("1", "2", ["--family", "binomial"]),
    ],
)
def test_two_labels_are_two_classes(run, tmp_path, zero, one, arguments, stream_above):
    text = labelled(zero, one)
    arguments = [*arguments, "--stream-above", stream_above]
    code, _, log = run({"train/t.csv": text, "test/t.csv": text}, *arguments)
    assert code == 0, log
    assert f"the model gives the probability of {one} (" in log
    assert "the target, column 'y', has two classes" in log
    assert f"positive={one}" in log
    model = model_logic.model_fn(str(tmp_path / "model"))
    low, high = model.predict(np.array([[-2.0], [2.0]]))
    assert low < 0.1 < 0.9 < high
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert str(described["classes"]["positive"]).removesuffix(".0") == one
    assert described["hyperparameters"]["family"] == "binomial"
    assert described["metrics"]["auc_train"] == described["metrics"]["auc_test"] > 0.8


def test_truth_values_of_parquet_are_two_classes(run, tmp_path):
    frame = pd.read_csv(io.StringIO(labelled("False", "True")))
    assert frame["y"].dtype == bool
    code, _, log = run({"train/t.parquet": frame}, "--positive", "True")
    assert code == 0, log
    assert "positive=1" in log
    frame["y"] = frame["y"].astype(int).astype(str)  # numbers, as text
    code, _, log = run({"train/t.parquet": frame})
    assert code == 0, log
    assert "positive=1" in log


def test_few_whole_numbers_are_no_silent_regression(run, tmp_path):
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) // 20})
    code, _, log = run({"train/t.csv": frame.to_csv(index=False)})
    assert code == 0
    assert "has only 3 different values, 0, 1, 2, and was modelled as a number; if they are" in log
    code, _, log = run({"train/t.csv": frame.to_csv(index=False)}, "--family", "gaussian")
    assert "different values" not in log


@pytest.mark.parametrize("text", [ROWS, "1,2\n2,3\n"])
def test_df_is_an_upper_limit(run, tmp_path, text):
    code, _, log = run({"train/t.csv": text}, "--df", "50")
    assert code == 0, log
    rows = np.array([[float(cell) for cell in line.split(",")] for line in text.split()])
    model = model_logic.model_fn(str(tmp_path / "model"))
    np.testing.assert_allclose(model.predict(rows[:, :1]), rows[:, 1], atol=2)


@pytest.mark.parametrize("header", ["present", "absent"])
def test_the_owner_may_say_whether_there_is_a_header(run, tmp_path, header):
    text = "0,1,2\n" + csv(np.random.default_rng(0).normal(size=(30, 3)))
    code, _, log = run({"train/t.csv": text}, "--header", header)
    assert code == 0
    assert "first line" not in log
    features = model_logic.model_fn(str(tmp_path / "model")).features
    assert features == (("0", "1") if header == "present" else ("x0", "x1"))


# ---------------------------------------------------------------- what to check


def boxed(log):
    return re.findall(r"^\+-+\+\n(?:\|.*\|\n)+\+-+\+$", log, re.MULTILINE)


def test_nothing_is_to_be_checked_where_all_is_well(run, tmp_path):
    frame = people()
    files = {"train/t.csv": frame[:250].to_csv(index=False), "test/t.parquet": frame[250:]}
    code, _, log = run(files, "--target", "risk", "--df", "8")
    assert code == 0, log
    assert boxed(log) == []
    assert "warning" not in log
    assert json.loads((tmp_path / "model" / "model.json").read_text())["checks"] == []
    assert "Check this" not in (tmp_path / "output" / "data" / "report.html").read_text()


def test_the_page_says_what_its_channel_asks_for(training_job, visit):
    page = {"outcome": "Wage", "features": {"job": {"label": "Profession"}}, "threshold": 5}
    job = training_job(
        {"train/t.csv": workers().to_csv(index=False), "page/words.json": json.dumps(page)},
        {"target": "pay"},
    ).run_program()
    assert job.exit_code == 0, job.log
    opened = visit((job.base / "output" / "data" / "page.html").as_uri())
    assert opened.inner_text("h1") == "pay"
    assert opened.inner_text("#outcome") == "Wage"
    assert opened.get_by_label("Profession").first.input_value() in "012"
    model = model_logic.model_fn(str(job.model_dir))
    row = opened.evaluate("() => app.row")
    assert opened.inner_text("#mean") == f"{model.predict([row])[0]:.4g}"
    assert opened.evaluate("() => document.querySelectorAll('.histogram').length") > 0


@pytest.mark.parametrize(
    ("page", "failure"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"titel": "x"}', "have the key 'titel'; known are title"),
        ('{"path": "x"}', "channel 'page'"),
    ],
)
def test_what_the_page_cannot_say_fails_the_job(training_job, page, failure):
    job = training_job(
        {"train/t.csv": workers().to_csv(index=False), "page/words.json": page}, {"target": "pay"}
    ).run_program()
    assert job.exit_code != 0
    assert failure in job.failure
    assert "\n" not in job.failure
    assert not list(job.model_dir.iterdir())


def test_what_is_to_be_checked_is_said_in_log_model_and_report(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_JOB_NAME", "credit-2026")
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame({"": np.arange(n), "a": rng.normal(size=n)})
    frame["twin"] = frame["a"]
    frame["always"] = 7.0
    frame["job"] = rng.choice(["clerk", "cook"], n)
    frame["noise"] = rng.normal(size=n)
    frame["y"] = np.exp(frame["a"]) + (frame["job"] == "cook")
    test = frame.copy()
    test.loc[:9, "job"] = "judge"
    test.loc[8:9, "noise"] = 1e6
    test["y"] = rng.permutation(test["y"])
    files = {"train/t.csv": frame.to_csv(index=False), "test/t.csv": test.to_csv(index=False)}
    code, _, log = run(files)
    assert code == 0, log
    (box,) = boxed(log)
    assert log.rstrip().endswith(box)
    text = re.sub(r"\s*\|\n\|\s*", " ", box)
    expected = [
        "column 1 has no name: it was taken for an index",
        "'always': no effect, as constant in training or left out",
        "'a', 'twin': the effects follow from one another by more than 90%",
        "on test rows and",
        "the test rows hold levels that training has not seen: 'job' (10 of 300 rows)",
        "further than 1 times the training range outside of it: 'noise' (2 of 300 rows)",
    ]
    findings = json.loads((tmp_path / "model" / "model.json").read_text())["checks"]
    report = (tmp_path / "output" / "data" / "report.html").read_text()
    assert "<dt>data set</dt><dd>t.csv</dd>" in report
    assert "<dt>target</dt><dd>y</dd>" in report
    assert "<dt>rows</dt><dd>300 in train, 300 in test</dd>" in report
    assert "<dt>job</dt><dd>credit-2026</dd>" in report
    assert "model_logic ·" in report
    assert "GAMRegressor" not in report
    assert report.index("Check this") < report.index("<h2>Fit")
    for sentence in expected:
        assert sentence in text
        assert sum(sentence in finding for finding in findings) == 1
        assert sentence in html.unescape(report)
    assert len(findings) == len(expected)


def test_a_warning_of_the_library_is_a_finding(run, tmp_path, monkeypatch):
    fit = GAMRegressor.fit

    def warning_fit(*arguments):
        for _ in range(2):
            warnings.warn("the classes are separable", UserWarning, stacklevel=2)
        warnings.warn("an old name", DeprecationWarning, stacklevel=2)
        return fit(*arguments)

    monkeypatch.setattr(GAMRegressor, "fit", warning_fit)
    with pytest.warns(DeprecationWarning, match="an old name"):  # goes its usual way
        code, _, log = run({"train/t.csv": ROWS})
    assert code == 0
    assert "1. the classes are separable" in boxed(log)[0]
    findings = json.loads((tmp_path / "model" / "model.json").read_text())["checks"]
    assert findings == ["the classes are separable"]


def test_predictions_that_the_target_cannot_be_are_a_finding(run):
    x = np.linspace(0, 6, 200)
    y = np.random.default_rng(0).poisson(100 * np.exp(-3 * x))
    text = pd.DataFrame({"x": x, "y": y}).to_csv(index=False)
    files = {"train/t.csv": text, "test/t.csv": text}
    _, _, log = run(files, "--df", "5")
    assert "predictions on test rows lie outside the range of the target in training, 0 to" in log
    _, _, log = run(files, "--df", "5", "--family", "poisson")
    assert "predictions" not in log


def test_the_area_under_the_curve_is_scikit_learns(run, tmp_path):
    from sklearn.metrics import log_loss, roc_auc_score

    text = labelled("0", "1", 2000)
    code, _, log = run({"train/t.csv": text})
    assert code == 0, log
    frame = pd.read_csv(io.StringIO(text))
    p = model_logic.model_fn(str(tmp_path / "model")).predict(frame[["x"]])
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    metrics = described["metrics"]
    assert metrics["auc_train"] == pytest.approx(roc_auc_score(frame["y"], p), abs=1e-4)
    assert metrics["log_loss_train"] == pytest.approx(log_loss(frame["y"], p), rel=1e-6)
    assert metrics["calibration_gap_train"] == pytest.approx((p - frame["y"]).mean(), abs=1e-9)
    bins = described["calibration"]["train"]
    assert sum(one["rows"] for one in bins) == 2000
    assert len(bins) == 10
    order = np.argsort(p)
    np.testing.assert_allclose(bins[0]["predicted"], p[order[:200]].mean(), atol=0.01)
    np.testing.assert_allclose(bins[-1]["observed"], frame["y"][order[-200:]].mean(), atol=0.02)


@pytest.mark.parametrize(
    ("files", "arguments", "failure"),
    [
        ({}, [], "no channel 'train' (channels: none); pass it to fit()"),
        ({"test/t.csv": ROWS}, [], "no channel 'train' (channels: 'test')"),
        ({"train/.keep": ""}, [], "channel 'train' holds no file"),
        ({"train/t.csv": ROWS}, ["--train-file", "u.csv"], "no file 'u.csv' in channel 'train'"),
        ({"train/t.csv": ""}, [], "t.csv is empty"),
        ({"train/t.csv": "x,y\n"}, [], "t.csv: there are no rows below the header 'x,y'"),
        ({"train/t.csv": "1,2\n3,zwei\n"}, [], "the target, column 2, is text, 'zwei' in row 2"),
        ({"train/t.csv": "x,y\n1,2\n3,inf\n"}, [], "t.csv: row 2, column 'y' is inf"),
        ({"train/t.csv": "1,2\n3,nan\n"}, [], "the target, column 2, is missing in row 2"),
        ({"train/t.csv": "1\n2\n"}, [], "t.csv has one column only"),
        ({"train/t.csv": "1,2\n3,4,5\n"}, [], "t.csv: line 2 has 3 cells where 2 are expected"),
        ({"train/t.csv": "1,\xff\n".encode("latin-1")}, [], "t.csv is not UTF-8 text"),
        ({"train/t.npy": b"\x93NUMPY"}, [], "t.npy: the body is not an array in NumPy's npy"),
        ({"train/t.parquet": b"PAR1"}, [], "t.parquet: not a Parquet file"),
        (
            {"train/t.parquet": FRAME.assign(debt="none")},
            [],
            "the target, column 'debt', is text, 'none' in row 1",
        ),
        ({"train/t.csv": ROWS}, ["--aplha", "1"], "'aplha'; did you mean 'alpha'?"),
        ({"train/t.csv": ROWS}, ["--target", "z"], "target='z' is not a column"),
        ({"train/t.csv": ROWS}, ["--target", "2"], "target='2' is not a column"),
        (
            {"train/t.csv": "x,y\n1,yes\n2,no\n3,maybe\n"},
            [],
            "the target, column 'y', has 3 labels, 'maybe', 'no', 'yes'; this program mod",
        ),
        (
            {"train/t.csv": "x,y\n1,yes\n2,no\n3,NA\n"},
            [],
            "the target, column 'y', is missing in row 3; drop it first",
        ),
        (
            {"train/t.csv": "x,y\n1,yes\n2,no\n"},
            ["--positive", "si"],
            "positive=si is not a label of the target, column 'y', which has 'no' and 'yes'",
        ),
        (
            {"train/t.csv": "x,y\n1,yes\n2,no\n"},
            ["--family", "poisson"],
            "has the labels 'no' and 'yes', and family=poisson needs numbers; leave family a",
        ),
        ({"train/t.csv": ROWS}, ["--positive", "1"], "positive=1 is for two classes, and the tar"),
        (
            {"train/t.csv": YES_NO, "test/t.csv": "x,y\n1,yes\n2,perhaps\n"},
            [],
            "channel 'test': the target, column 'y', is 'perhaps' in row 2; the classes are",
        ),
        ({"train/t.csv": ROWS}, ["--df", "3"], "df must be an integer of at least degree + 1 = 4"),
        ({"train/t.csv": ROWS}, ["--df", "-1"], "got df=-1"),
        ({"train/t.csv": ROWS}, ["--df", "ten"], "argument --df: invalid int value: 'ten'"),
        ({"train/t.csv": ROWS}, ["--alpha", "0"], "got alpha=0.0"),
        ({"train/t.csv": ROWS}, ["--alpha", "-1"], "got alpha=-1.0"),
        ({"train/t.csv": ROWS}, ["--alpha", "nan"], "got alpha=nan"),
        ({"train/t.csv": ROWS}, ["--alpha", "much"], "'much' is neither a number nor 'auto'"),
        ({"train/t.csv": ROWS}, ["--degree", "1"], "got degree=1"),
        ({"train/t.csv": ROWS}, ["--interactions", "some"], "'some' is neither a number of pairs"),
        ({"train/t.csv": ROWS}, ["--interactions=-1"], "got interactions=-1"),
        (
            {"train/t.csv": "a,b,y\n1,2,3\n2,1,4\n"},
            ["--interactions", '[["a", "c"]]'],
            "interactions names 'c', which is not a column of X, which has n_features=2: 'a', 'b'",
        ),
        ({"train/t.csv": ROWS}, ["--degree", "99"], "got degree=99"),
        ({"train/t.csv": ROWS}, ["--extrapolate", "guess"], "got extrapolate='guess'"),
        (
            {"train/t.csv": ROWS, "test/t.csv": "1,2,3\n"},
            [],
            "channel 'test': columns do not match the model: unknown 'x1'; the model has 'x0'",
        ),
        (
            {"train/t.csv": "x,y\n" + ROWS, "test/t.csv": "y,x\n1,2\n"},
            [],
            "channel 'test': columns do not match the model: missing 'x'; unknown 'y'",
        ),
        ({"train/t.csv": ROWS, "test/t.csv": ""}, [], "t.csv is empty"),
        (
            {"train/t.csv": "age,y\n" + ROWS, "test/t.csv": "age,y\n5,1\n99,2\n"},
            ["--extrapolate", "error"],
            "channel 'test': age = 99 in row 1 lies outside the training range [0, 19]",
        ),
    ],
)
def test_bad_input_is_answered_by_one_sentence(run, tmp_path, files, arguments, failure):
    code, written, log = run(files, "--df", "10", *arguments)
    assert code == 1
    assert failure in written
    assert "\n" not in written
    assert len(written) < 1024
    assert "Traceback" not in log
    assert list((tmp_path / "model").iterdir()) == []


# ---------------------------------------------------------------- the hooks


@pytest.fixture(scope="module")
def model(gauss3_job):
    return model_logic.model_fn(str(gauss3_job.model_dir))


def test_a_model_of_another_format_is_refused(gauss3_job, tmp_path):
    shutil.copytree(gauss3_job.model_dir, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "gam.json").read_text())
    (tmp_path / "gam.json").write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(ValueError, match="has version 99 of the format"):
        model_logic.model_fn(str(tmp_path))


def test_explanations_add_up(model):
    X = np.array([[-50.0], [1], [125.25], [250], [1e4]])
    answer = model_logic.predict_fn(payload.Table(X), model)
    np.testing.assert_array_equal(answer.prediction, model.predict(X))
    explanation = answer.explain()
    np.testing.assert_allclose(
        explanation.base + explanation.values["x0"], answer.prediction, rtol=1e-12
    )
    body, _ = model_logic.output_fn(answer, "application/json;explain=true")
    assert json.loads(body)["scale"] == "response"


def ask(table, model, accept="application/json"):
    body, _ = model_logic.output_fn(model_logic.predict_fn(table, model), accept)
    return [json.loads(line) for line in body.splitlines()]


def test_an_answer_far_from_training_carries_a_warning(model):
    (x,) = model.terms
    low, high = x.range
    width = high - low
    (answer,) = ask(payload.Table(np.array([[low - 0.99 * width], [low], [high + width]])), model)
    assert "warnings" not in answer
    X = np.array([[low], [1e30], [high + 1.01 * width], [low - 1.01 * width]])
    (answer,) = ask(payload.Table(X), model)
    (warning,) = answer["warnings"]
    assert re.match(r"far outside the training range.*'x0' is 1e\+30 in row 1 and 2 more", warning)
    assert len(answer["prediction"]) == 4
    lines = ask(payload.Table(X), model, "application/jsonlines; explain=true")
    assert ["warnings" in line for line in lines] == [False, True, True, True]
    assert lines[1]["warnings"] == [warning]


def test_an_answer_lists_unknown_levels(run, tmp_path):
    code, _, log = run({"train/t.csv": workers().to_csv(index=False)}, "--target", "pay")
    assert code == 0, log
    model = model_logic.model_fn(str(tmp_path / "model"))
    rows = [{"age": 1e9, "job": "pilot"}, {"age": 40, "job": None}, {"age": 40, "job": "judge"}]
    (answer,) = ask(payload.decode(json.dumps(rows), JSON), model)
    far, unknown = answer["warnings"]
    assert "'age' is 1e+09 in row 0" in far
    assert unknown == "unknown in training, and so without an effect: 'job' is 'pilot' in row 0"
    assert "warnings" not in ask(payload.decode(json.dumps(rows[1:]), JSON), model)[0]


def test_warnings_are_worked_out_for_json_only(model, monkeypatch):
    monkeypatch.setattr(model_logic, "warn_of_rows", lambda *_: 1 / 0)
    for accept in ("application/x-npy", "text/csv"):
        answer = model_logic.predict_fn(payload.Table(np.array([[1e30]])), model)
        model_logic.output_fn(answer, accept)
    with pytest.raises(ZeroDivisionError):
        model_logic.output_fn(answer, "application/json")


def test_json_by_the_line_is_answered_by_the_line(model):
    table = model_logic.input_fn(b'{"x0": 1}\n{"x0": 2}\n', "application/json")
    answers = ask(table, model, "*/*")
    assert [line["prediction"] for line in answers] == model.predict([[1.0], [2.0]]).tolist()


def test_a_prediction_that_overflows_is_the_clients_error():
    x = np.linspace(0, 1, 20)[:, None]
    steep = GAMRegressor(df=5).fit(x, 100 * x[:, 0]).terms_
    with pytest.raises(PayloadError, match="row 1 is so far outside"):
        model_logic.predict_fn(payload.Table(np.array([[2.0], [np.finfo(float).max]])), steep)


def test_serving_needs_no_library_of_training(gauss3_job):
    # scikit-learn imports pandas, and with it pyarrow, where it finds them: so they are barred.
    program = f"""
import sys
sys.modules["pandas"] = sys.modules["pyarrow"] = None
import model_logic as m
model = m.model_fn({str(gauss3_job.model_dir)!r})
for body, kind in [(b"1\\n2", "text/csv"), (b"[[1], [2]]", "application/json")]:
    answer = m.predict_fn(m.input_fn(body, kind), model)
    for accept in ("application/x-npy", "application/jsonlines; explain=true"):
        m.output_fn(answer, accept)
heavy = {{"sklearn", "statsmodels", "matplotlib", "sagemaker", "boto3"}}
print(answer.prediction.shape, sorted(heavy & sys.modules.keys()))
"""
    environ = {**os.environ, "PYTHONPATH": str(CODE), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "(2,) []\n"


def test_a_hook_takes_text_from_servers_that_decode(model):
    answer = model_logic.predict_fn(model_logic.input_fn("[[1], [2]]", JSON), model)
    assert answer.prediction.shape == (2,)

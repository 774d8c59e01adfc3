"""The package from outside: documentation, imports, wheel."""

import doctest
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest

import gam_model
from gam_model import GAMRegressor

PROJECT = Path(__file__).parents[2] / "gam_model"


def run(*command, cwd):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(gam_model.__path__)])
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(f"gam_model.{name}")).failed == 0


@pytest.mark.parametrize("name", gam_model.__all__)
def test_public_objects_have_examples(name):
    assert doctest.DocTestFinder(recurse=False).find(getattr(gam_model, name))[0].examples


def test_all_names_exist():
    assert all(hasattr(gam_model, name) for name in gam_model.__all__)


def test_serving_needs_neither_statsmodels_nor_pandas(additive, tmp_path):
    """scikit-learn imports pandas where it finds it, so pandas is barred, not only looked for."""
    X, y, _ = additive
    gam = GAMRegressor(df=5).fit(X, y)
    joblib.dump(gam, tmp_path / "model.joblib")
    np.save(tmp_path / "rows.npy", X)
    script = """if True:
        import sys

        class NoPandas:
            def find_spec(self, name, path=None, target=None):
                if name == "pandas":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NoPandas())
        import joblib, numpy
        gam = joblib.load("model.joblib")
        rows = numpy.load("rows.npy")
        numpy.save("answers.npy", gam.predict(rows))
        gam.contributions(rows), gam.predict_interval(rows)
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(*loaded & {"statsmodels", "pandas", "matplotlib"})
    """
    assert run(sys.executable, "-W", "error", "-c", script, cwd=tmp_path).split() == []
    assert np.array_equal(np.load(tmp_path / "answers.npy"), gam.predict(X))


def test_a_saved_model_needs_no_scikit_learn(tmp_path):
    script = """if True:
        import sys, gam_model
        model = gam_model.AdditiveModel.load(sys.argv[1])
        model.predict([[40.0, 0, 1], [float("nan"), 1, 0]]), model.contributions([[40.0, 0, 1]])
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(*loaded & {"sklearn", "statsmodels", "pandas", "matplotlib"})
    """
    artifact = Path(__file__).parent / "artifacts" / "version1.json"
    assert run(sys.executable, "-W", "error", "-c", script, artifact, cwd=tmp_path).split() == []


def test_what_needs_an_extra_names_it(tmp_path):
    script = """if True:
        import sys, numpy
        sys.modules["pandas"] = sys.modules["statsmodels"] = None  # not to be imported
        from gam_model import GAMRegressor
        from gam_model.page import write_page
        x = numpy.arange(50.0)[:, None]
        gam = GAMRegressor().fit(x, x[:, 0])
        gam.predict_interval(x), gam.contributions(x), write_page(gam, "page.html", x)
        reference = GAMRegressor(alpha=1.0, solver="statsmodels")
        for call in (
            lambda: gam.explain(x[:1]),
            gam.terms,
            gam.summary_frame,
            gam.summary,
            lambda: reference.fit(x, x[:, 0]),
        ):
            try:
                call()
            except ImportError as error:
                print(error)
    """
    assert run(sys.executable, "-W", "error", "-c", script, cwd=tmp_path).splitlines() == [
        'explain() needs pandas; run pip install "gam_model[tables]"',
        'terms() needs pandas; run pip install "gam_model[tables]"',
        'summary_frame() needs pandas; run pip install "gam_model[tables]"',
        'summary() needs statsmodels; run pip install "gam_model[statsmodels]"',
        'solver="statsmodels" needs statsmodels; run pip install "gam_model[statsmodels]"',
    ]


def test_wheel_works_in_an_empty_environment(tmp_path):
    source = shutil.copytree(
        PROJECT, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "dist", source, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == f"gam_model-{gam_model.__version__}-py3-none-any.whl"
    sources = (PROJECT / "src").rglob("gam_model/**/*.*")
    files = {path.relative_to(PROJECT / "src").as_posix() for path in sources}
    modules = {name for name in files if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == modules

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", wheel, cwd=tmp_path)
    script = """if True:
        import importlib.util, numpy
        from gam_model import GAMRegressor
        x = numpy.arange(50.0)[:, None]
        print(GAMRegressor().fit(x, x[:, 0]).predict([[60.0]]).round(6))
        foreign = ("sagemaker", "boto3", "botocore", "matplotlib", "pandas", "statsmodels")
        print([name for name in foreign if importlib.util.find_spec(name)])
    """
    assert run(python, "-W", "error", "-c", script, cwd=tmp_path) == "[60.]\n[]\n"

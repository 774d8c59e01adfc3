"""Fits the same rows with gam_model and its peers, one process each, and prints the ratios.

Usage: python benchmarks/bench.py [--full] [--output build/bench.json]

Times are CPU seconds of one core, after all imports and a fit of a few rows to warm up. `rmse` is
the error of eta on the first 10,000 rows against the truth that the rows were drawn from. Without
--full, a peer that needs minutes or many gigabytes for the largest sets is left out there.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

P = 10
SIZES = (10_000, 100_000, 1_000_000)
FAMILIES = ("gaussian", "binomial")
# The largest number of rows that a peer fits in about a minute.
PATIENCE = {"statsmodels": 100_000, "pygam": 100_000, "ebm": 100_000}
# mgcv's default basis; our own splines and penalty; P-splines, which penalise differences.
BAM = {"bam tp": "bs = 'tp'", "bam bs": "bs = 'bs', m = c(3, 2)", "bam ps": "bs = 'ps'"}
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def draw(family, n):
    """Draw rows with a smooth truth: ten curves from a line to three waves."""
    rng = np.random.default_rng(n)
    X = rng.uniform(size=(n, P))
    eta = sum(np.sin((j + 1) * X[:, j] * 2) / (1 + j / 4) for j in range(P))
    eta -= eta.mean()
    if family == "binomial":
        return X, (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float), eta
    return X, eta + rng.normal(size=n), eta


# ---------------------------------------------------------------- the peers: (fit, eta, predict)


def use_gam_model(family):
    """Take ours, with automatic smoothing."""
    from gam_model import GAMClassifier, GAMRegressor

    kind = GAMClassifier if family == "binomial" else GAMRegressor

    def fit(X, y):
        return kind().fit(X, y)

    return fit, lambda model, X: model.terms_.eta(X), lambda model, X: model.terms_.predict(X)


def use_statsmodels(family):
    """Take a plain GLMGam."""
    import statsmodels.api as sm
    from statsmodels.gam.api import BSplines, GLMGam

    kind = sm.families.Binomial() if family == "binomial" else sm.families.Gaussian()

    def fit(X, y):
        bases = BSplines(X, df=[15] * P, degree=[3] * P)
        ones = np.ones((len(y), 1))
        return GLMGam(y, exog=ones, smoother=bases, alpha=1, family=kind).fit()

    def predict(model, X, which="mean"):
        return model.predict(np.ones((len(X), 1)), exog_smooth=X, which=which)

    return fit, lambda model, X: predict(model, X, "linear"), predict


def use_pygam(family):
    """Take pyGAM with its fixed smoothing."""
    import pygam

    kind = pygam.LogisticGAM if family == "binomial" else pygam.LinearGAM
    terms = sum((pygam.s(j, n_splines=15) for j in range(1, P)), pygam.s(0, n_splines=15))

    def fit(X, y):
        return kind(terms).fit(X, y)

    def predict(model, X):
        return model.predict_mu(X)

    return fit, lambda model, X: model.link.link(model.predict_mu(X), model.distribution), predict


def use_ebm(family):
    """Take the Explainable Boosting Machine, without interactions."""
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    binomial = family == "binomial"
    kind = ExplainableBoostingClassifier if binomial else ExplainableBoostingRegressor

    def fit(X, y):
        return kind(interactions=0, n_jobs=1).fit(X, y)

    def eta(model, X):
        return model.decision_function(X) if binomial else model.predict(X)

    def predict(model, X):
        return model.predict_proba(X)[:, 1] if binomial else model.predict(X)

    return fit, eta, predict


PEERS = {
    "gam_model": use_gam_model,
    "statsmodels": use_statsmodels,
    "pygam": use_pygam,
    "ebm": use_ebm,
}


def measure(peer, family, n):
    """Fit one peer in this process, and print what it took as JSON."""
    fit, eta, predict = PEERS[peer](family)
    fit(*draw(family, 1000)[:2])
    X, y, truth = draw(family, n)
    before = resource.getrusage(resource.RUSAGE_SELF)
    model = fit(X, y)
    after = resource.getrusage(resource.RUSAGE_SELF)
    few = slice(0, 10_000)
    many = X[:100_000]
    result = {
        "fit_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "extra_mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "rmse": float(np.sqrt(np.mean((eta(model, X[few]) - truth[few]) ** 2))),
        "row_us": 1e6 * per_call(lambda: predict(model, many[:1])),
        "rows_per_s": len(many) / per_call(lambda: predict(model, many), 5),
    }
    if peer == "gam_model":
        with tempfile.NamedTemporaryFile() as file:
            model.terms_.save(file.name)
            result["artifact_bytes"] = Path(file.name).stat().st_size
    print(json.dumps(result))


def per_call(call, times=200):
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def run_all(full):
    """Measure every peer on every set, and return the results by set and peer."""
    results = {}
    for family in FAMILIES:
        for n in SIZES:
            key = f"{family} {n}"
            results[key] = {}
            for peer in PEERS:
                if full or n <= PATIENCE.get(peer, n):
                    command = [sys.executable, __file__, "--measure", peer, family, str(n)]
                    results[key][peer] = run(command)
            if shutil.which("Rscript"):
                for name, basis in BAM.items():
                    results[key][name] = run_bam(family, n, basis)
            report(key, results[key])
    return results


def run_bam(family, n, basis):
    """Measure mgcv, which reads the rows from files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, values in zip(("X", "y", "eta"), draw(family, n), strict=True):
            values.T.tofile(Path(folder, name))  # R's matrices go column by column
        return run(
            ["Rscript", str(Path(__file__).with_name("bam.R")), folder, family, str(n), basis]
        )


def run(command):
    """Run a measurement in a process of its own, on one core."""
    done = subprocess.run(
        command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def time_imports():
    """Return the CPU seconds that imports take, the median of five processes each."""
    statements = (
        "import gam_model",
        "from gam_model import AdditiveModel",
        "from gam_model import GAMRegressor",
        "import sklearn.linear_model, statsmodels.api",
    )
    times = {statement: [] for statement in statements}
    for _ in range(5):
        for statement in statements:
            script = f"import time\n{statement}\nprint(time.process_time())"
            command = [sys.executable, "-c", script]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times[statement].append(float(done.stdout))
    return {statement: float(np.median(seconds)) for statement, seconds in times.items()}


def report(key, results):
    """Print one set's figures, and how many times ours each takes."""
    print(f"\n{key}")
    ours = results["gam_model"]["fit_s"]
    for peer, figures in results.items():
        shown = "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        ratio = figures.get("fit_s", np.nan) / ours
        print(f"  {peer:<12} {ratio:8.2f} x  {shown}", flush=True)


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="leave no peer out")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        peer, family, n = arguments.measure
        return measure(peer, family, int(n))
    results = run_all(arguments.full)
    results["imports"] = time_imports()
    print("\nimports, CPU seconds of the process")
    for statement, seconds in results["imports"].items():
        print(f"  {seconds:8.3f}  {statement}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

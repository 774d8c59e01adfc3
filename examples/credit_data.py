"""The tables of "Give Me Some Credit", from where the user keeps them, or made up in their image.

The competition's rules forbid to hand the data on, so it is not part of the project.
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd

TARGET = "SeriousDlqin2yrs"
ARCHIVE = "credit-small.tar.xz"
_ROOT = Path(__file__).resolve().parents[1]


def find() -> Path | None:
    """Return the archive of train.csv and test.csv: in DATA_DIR, else in ../shared/data."""
    folders = [os.environ.get("DATA_DIR"), _ROOT.parent / "shared" / "data"]
    paths = [Path(folder) / ARCHIVE for folder in folders if folder]
    return next((path for path in paths if path.is_file()), None)


def load() -> tuple[dict[str, pd.DataFrame], bool]:
    """Return the tables ``train`` and ``test``, and whether they are the real ones."""
    path = find()
    if path is None:
        return {"train": generate(18_000, seed=0), "test": generate(2_000, seed=1)}, False
    with tarfile.open(path) as archive:
        files = {name: archive.extractfile(f"{name}.csv").read() for name in ("train", "test")}
    return {name: pd.read_csv(io.BytesIO(content)) for name, content in files.items()}, True


def generate(n_rows: int, seed: int) -> pd.DataFrame:
    """Make up rows with the same columns, kinds of values and missing cells; nobody's data."""
    rng = np.random.default_rng(seed)
    strain = rng.normal(size=n_rows)  # what the features have in common
    debt = np.exp(rng.normal(-1, 1, n_rows) + 0.2 * strain)
    income = np.exp(rng.normal(8.6, 0.6, n_rows) - 0.2 * strain).round()
    dependents = rng.poisson(0.8, n_rows).astype(float)
    income[rng.random(n_rows) < 0.2] = np.nan
    dependents[rng.random(n_rows) < 0.03] = np.nan

    def late(rate: float) -> np.ndarray:
        return rng.poisson(rate * np.exp(1.2 * strain))

    frame = pd.DataFrame(
        {
            "RevolvingUtilizationOfUnsecuredLines": 1 / (1 + np.exp(1 - 1.5 * strain)),
            "age": np.clip(rng.normal(52, 14, n_rows) - 3 * strain, 21, 99).round().astype(int),
            "NumberOfTime30-59DaysPastDueNotWorse": late(0.12),
            "DebtRatio": debt,
            "MonthlyIncome": income,
            "NumberOfOpenCreditLinesAndLoans": rng.poisson(8, n_rows),
            "NumberOfTimes90DaysLate": late(0.03),
            "NumberRealEstateLoansOrLines": rng.poisson(1, n_rows),
            "NumberOfTime60-89DaysPastDueNotWorse": late(0.04),
            "NumberOfDependents": dependents,
        }
    )
    score = -2.5 + 1.1 * strain + 0.9 * frame["NumberOfTimes90DaysLate"] - 0.02 * frame["age"]
    frame.insert(0, TARGET, (rng.random(n_rows) < 1 / (1 + np.exp(-score))).astype(int))
    return frame

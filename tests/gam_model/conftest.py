from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def gauss3():
    """NIST's Gauss3: X of shape (250, 1), x = 1, 2, ..., 250, and y."""
    y, x = np.loadtxt(ROOT / "data" / "Gauss3.dat", skiprows=60, unpack=True)
    return x[:, None], y


@pytest.fixture(scope="session")
def additive():
    """Three smooth curves, a straight line and a null feature, in unlike units; noise of sd .1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(800, 5)) * [10, 1, 100, 5, 1]
    curves = np.column_stack(
        [np.sin(X[:, 0]), np.exp(X[:, 1]), (X[:, 2] / 50 - 1) ** 2, 0.3 * X[:, 3], 0 * X[:, 4]]
    )
    y = 10 + curves.sum(axis=1) + rng.normal(scale=0.1, size=len(X))
    return X, y, curves

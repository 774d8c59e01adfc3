"""Generalized additive models that explain every prediction exactly."""

import importlib

__version__ = "0.1.0"
__all__ = ["AdditiveModel", "GAMClassifier", "GAMRegressor"]

_HOMES = {"AdditiveModel": "_model", "GAMClassifier": "_estimators", "GAMRegressor": "_estimators"}


def __getattr__(name):
    """Import the estimators lazily: loading an `AdditiveModel` must not require scikit-learn."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gam_model' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gam_model.{_HOMES[name]}"), name)


def __dir__():
    return [*globals(), *__all__]

"""Generalized additive models that explain every prediction exactly."""

from gam_model._estimators import GAMClassifier, GAMRegressor

__version__ = "0.1.0"
__all__ = ["GAMClassifier", "GAMRegressor"]

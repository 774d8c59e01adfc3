"""Exact, deterministic explanations of fitted models."""

from explainers._anchors import Anchor, AnchorExplainer
from explainers._forest import ForestExplainer

__version__ = "0.1.0"
__all__ = ["Anchor", "AnchorExplainer", "ForestExplainer"]

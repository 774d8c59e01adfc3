"""Exact, deterministic explanations of fitted models."""

from explainers._anchors import Anchor, AnchorExplainer

__version__ = "0.1.0"
__all__ = ["Anchor", "AnchorExplainer"]

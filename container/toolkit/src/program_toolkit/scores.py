"""How well a model answers rows whose target is known, chunk by chunk."""

from typing import TYPE_CHECKING

import numpy as np

from program_toolkit.limits import find_far, find_unknown

if TYPE_CHECKING:
    from gam_model import AdditiveModel

_EDGES = np.linspace(-36, 36, 72_001)  # of log-odds: beyond, a probability is 0 or 1


class Scores:
    """Sums over rows, from which all figures follow.

    Parameters
    ----------
    model : AdditiveModel
    binary : bool
        Whether the target is 0 and 1.
    bounds : tuple of float, optional
        Of the target in training, to count predictions beyond them.

    Attributes
    ----------
    n : int
        Number of rows.
    low, high : float
        Least and greatest target.
    beyond : int
        Rows whose prediction lies outside `bounds`, by more than a tenth of their distance, or
        below 0 where the target never was.
    far, unknown : dict of str to int
        Rows in which a feature is far outside its training range, or of an unknown level.
    """

    def __init__(
        self, model: "AdditiveModel", binary: bool, bounds: tuple[float, float] | None = None
    ):
        self._model, self._bounds = model, bounds
        self.n, self.low, self.high, self.beyond = 0, np.inf, -np.inf, 0
        self.far: dict[str, int] = {}
        self.unknown: dict[str, int] = {}
        self._shift: float | None = None
        self._total = self._square = self._residual = self._loss = 0.0
        # In bins of the log-odds: rows, ones among them, and the sum of their probabilities.
        self._bins = np.zeros((3, len(_EDGES) + 1)) if binary else None

    def add(self, X: np.ndarray, y: np.ndarray) -> None:
        """Add rows as the model reads them, shape (n, p), and their targets, shape (n,)."""
        mu = self._model.predict(X)
        self._shift = y[0] if self._shift is None else self._shift  # saves digits of large numbers
        self.n += len(y)
        self.low, self.high = min(self.low, float(y.min())), max(self.high, float(y.max()))
        self._total += float(np.sum(y - self._shift))
        self._square += float(np.sum((y - self._shift) ** 2))
        self._residual += float(np.sum((y - mu) ** 2))
        if self._bins is not None:
            p = np.clip(mu, np.finfo(float).eps, 1 - np.finfo(float).eps)
            self._loss -= float(y @ np.log(p) + (1 - y) @ np.log1p(-p))
            at = np.searchsorted(_EDGES, np.log(p) - np.log1p(-p))
            for sums, weight in zip(self._bins, (np.ones(len(y)), y, mu), strict=True):
                sums += np.bincount(at, weight, len(sums))
        if self._bounds:
            low, high = self._bounds
            room = 0.1 * (high - low)
            low = 0.0 if low >= 0 else low - room
            self.beyond += int(np.sum((mu < low) | (mu > high + room)))
        for counts, found in (
            (self.far, find_far(X, self._model)),
            (self.unknown, find_unknown(X, self._model)),
        ):
            for name, rows in found.items():
                counts[name] = counts.get(name, 0) + int(rows.sum())

    def metrics(self) -> dict[str, float]:
        """Return R^2 and root mean squared error; of 0 and 1 also scores of the probabilities.

        Returns
        -------
        dict of str to float
            r2, rmse; and log_loss, calibration_gap, the mean prediction minus the share of ones,
            and, if there are both, auc, the area under the ROC curve. For the area, probabilities
            whose log-odds differ by less than .001 count as equal.
        """
        scatter = self._square - self._total**2 / self.n
        # As in scikit-learn: a constant target is matched (1) or missed (0).
        r2 = 1 - self._residual / scatter if scatter > 0 else float(self._residual == 0)
        metrics = {"r2": r2, "rmse": (self._residual / self.n) ** 0.5}
        if self._bins is not None:
            rows, ones, expected = self._bins
            zeros = rows - ones
            metrics["log_loss"] = self._loss / self.n
            metrics["calibration_gap"] = float(expected.sum() - ones.sum()) / self.n
            if ones.any() and zeros.any():
                below = np.cumsum(zeros) - zeros / 2
                metrics["auc"] = float(ones @ below / (ones.sum() * zeros.sum()))
        return metrics

    def calibration(self, bins: int = 10) -> list[dict[str, float]]:
        """Compare predicted with observed shares, in bins of about equal size by probability.

        Returns
        -------
        list of dict
            rows, predicted and observed.
        """
        if self._bins is None:
            raise ValueError("calibration needs a model that predicts probabilities")
        rows, ones, expected = self._bins
        group = np.minimum(np.cumsum(rows) - rows / 2, self.n - 0.5) * bins // self.n
        sums = [np.bincount(group.astype(int), one, bins) for one in (rows, ones, expected)]
        return [
            {"rows": int(n), "predicted": float(p / n), "observed": float(o / n)}
            for n, o, p in zip(*sums, strict=True)
            if n
        ]

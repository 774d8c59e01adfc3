"""Link functions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

_HUGE = np.finfo(float).max
TINY = 1e-200  # lower bound of the mean of counts and amounts, so that y / mu is finite


@dataclass(frozen=True)
class Link:
    """
    A link function g, with eta = g(mu).

    Parameters
    ----------
    name : str
        Its name, as in statsmodels' `links`.
    link, derivative : callable
        g(mu) and g'(mu), elementwise.
    inverse : callable
        The inverse of g, elementwise, for all numbers: where g does not reach eta it gives the
        limit of mu, such as infinity beyond a pole.
    domain : tuple of float
        Open interval of eta in which mu is finite.
    means : tuple of float
        Open interval of mu in which g is defined.
    turning_point : float or None
        The eta at which the inverse changes from falling to rising, if it does.
    """

    name: str
    link: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    domain: tuple[float, float] = (-np.inf, np.inf)
    means: tuple[float, float] = (-np.inf, np.inf)
    turning_point: float | None = None

    @property
    def sign(self):
        """1 if mu rises with eta, beyond a turning point if there is one, or -1 if it falls."""
        return int(np.sign(self.derivative(self.inverse(np.float64(0.5)))))

    def reaches(self, eta):
        """Return for each eta, a number or an array, whether its mu is finite."""
        low, high = self.domain
        return (low < eta) & (eta < high)

    def bracket(self, low, high):
        """
        Transform intervals of eta into intervals of mu.

        Parameters
        ----------
        low, high : ndarray of shape (n_samples,)
            Ends of eta.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper end of mu; infinite where the interval of eta reaches a pole.
        """
        with np.errstate(over="ignore", divide="ignore"):
            ends = np.sort(
                self.inverse(np.column_stack([low, high])), axis=1
            )  # links may decrease
        if self.turning_point is not None:
            ends[(low < self.turning_point) & (self.turning_point < high), 0] = self.inverse(
                self.turning_point
            )
        return ends


def _normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


IDENTITY = Link("identity", lambda mu: mu, lambda eta: eta, np.ones_like)
LOG = Link(
    "log",
    np.log,
    lambda eta: np.exp(np.maximum(eta, np.log(TINY))),
    lambda mu: 1 / mu,
    domain=(-np.inf, np.log(_HUGE)),
    means=(0.0, np.inf),
)
INVERSE = Link(
    "inverse",
    lambda mu: 1 / mu,
    lambda eta: 1 / np.maximum(eta, 0.0),
    lambda mu: -1 / mu**2,
    domain=(1 / _HUGE, np.inf),
    means=(0.0, np.inf),
)
SQRT = Link(
    "sqrt",
    np.sqrt,
    lambda eta: np.maximum(np.square(eta), TINY),
    lambda mu: 0.5 / np.sqrt(mu),
    domain=(-np.sqrt(_HUGE), np.sqrt(_HUGE)),
    means=(0.0, np.inf),
    turning_point=0.0,
)
LOGIT = Link("logit", logit, expit, lambda mu: 1 / (mu * (1 - mu)), means=(0.0, 1.0))
PROBIT = Link("probit", ndtri, ndtr, lambda mu: 1 / _normal_density(ndtri(mu)), means=(0.0, 1.0))
CLOGLOG = Link(
    "cloglog",
    lambda mu: np.log(-np.log1p(-mu)),
    lambda eta: -np.expm1(-np.exp(np.minimum(eta, 100.0))),
    lambda mu: -1 / ((1 - mu) * np.log1p(-mu)),
    means=(0.0, 1.0),
)
LINKS = {link.name: link for link in (IDENTITY, LOG, INVERSE, SQRT, LOGIT, PROBIT, CLOGLOG)}

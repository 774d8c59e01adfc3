"""Exponential families and link functions: the response's side of an additive model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, logit, ndtr, ndtri, xlogy

_TINY = np.finfo(float).tiny
# mu of a binomial stays this far from 0 and 1, so that its weights and its deviance are finite.
_EDGE = np.finfo(float).eps


@dataclass(frozen=True)
class Link:
    """
    A link function g, with eta = g(mu).

    Parameters
    ----------
    name : str
        Its name, as in statsmodels' `links`.
    link, inverse, derivative : callable
        g(mu), its inverse, and g'(mu), elementwise.
    """

    name: str
    link: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


def _normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


IDENTITY = Link("identity", lambda mu: mu, lambda eta: eta, np.ones_like)
LOG = Link("log", np.log, np.exp, lambda mu: 1 / mu)
INVERSE = Link("inverse", lambda mu: 1 / mu, lambda eta: 1 / eta, lambda mu: -1 / mu**2)
SQRT = Link("sqrt", np.sqrt, np.square, lambda mu: 0.5 / np.sqrt(mu))
LOGIT = Link("logit", logit, expit, lambda mu: 1 / (mu * (1 - mu)))
PROBIT = Link("probit", ndtri, ndtr, lambda mu: 1 / _normal_density(ndtri(mu)))
CLOGLOG = Link(
    "cloglog",
    lambda mu: np.log(-np.log1p(-mu)),
    lambda eta: -np.expm1(-np.exp(eta)),
    lambda mu: -1 / ((1 - mu) * np.log1p(-mu)),
)
LINKS = {link.name: link for link in (IDENTITY, LOG, INVERSE, SQRT, LOGIT, PROBIT, CLOGLOG)}


@dataclass(frozen=True)
class Family:
    """
    An exponential family: how the response scatters around its mean mu.

    Parameters
    ----------
    name : str
        Its name.
    links : tuple of Link
        The links it can be used with, the default first.
    variance : callable
        V(mu), the variance divided by the scale.
    unit_deviance : callable
        d(y, mu), twice the loss of log-likelihood against mu = y, times the scale.
    bounds : tuple of float
        What mu is kept within.
    domain : str
        What y must be, in words.
    accepts : callable
        Whether y from its least to its greatest value is that.
    generator : callable
        t(y), elementwise; for weights w of sum n, sum w d(y, mean) / 2 = sum w t(y) - n t(mean).
    log_base : callable
        What a row with mu = y adds to the log-likelihood, elementwise, but for `log_scale`.
    log_scale : callable
        What the scale adds to it.
    start : callable
        A first mu from y and its mean, inside the bounds.
    scale : float or None
        The scale where the family fixes it; None where it is estimated.

    References
    ----------
    McCullagh and Nelder (1989), "Generalized Linear Models", 2nd edition, chapter 2.
    """

    name: str
    links: tuple[Link, ...]
    variance: Callable[[np.ndarray], np.ndarray]
    unit_deviance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    bounds: tuple[float, float]
    domain: str
    accepts: Callable[[float, float], bool]
    generator: Callable[[np.ndarray], np.ndarray]
    log_base: Callable[[np.ndarray], np.ndarray]
    log_scale: Callable[[float], float]
    start: Callable[[np.ndarray, float], np.ndarray]
    scale: float | None


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gaussian",
            links=(IDENTITY, LOG),
            variance=np.ones_like,
            unit_deviance=lambda y, mu: (y - mu) ** 2,
            bounds=(-np.inf, np.inf),
            domain="finite",
            accepts=lambda low, high: True,
            generator=lambda y: y * y / 2,
            log_base=np.zeros_like,
            log_scale=lambda scale: -0.5 * np.log(2 * np.pi * scale),
            start=lambda y, mean: (y + mean) / 2,
            scale=None,
        ),
        Family(
            "binomial",
            links=(LOGIT, PROBIT, CLOGLOG),
            variance=lambda mu: mu * (1 - mu),
            unit_deviance=lambda y, mu: 2 * (xlogy(y, y / mu) + xlogy(1 - y, (1 - y) / (1 - mu))),
            bounds=(_EDGE, 1 - _EDGE),
            domain="between 0 and 1",
            accepts=lambda low, high: low >= 0 and high <= 1,
            generator=lambda y: xlogy(y, y) + xlogy(1 - y, 1 - y),
            log_base=lambda y: xlogy(y, y) + xlogy(1 - y, 1 - y),
            log_scale=lambda scale: 0.0,
            start=lambda y, mean: (y + 0.5) / 2,
            scale=1.0,
        ),
        Family(
            "poisson",
            links=(LOG, SQRT),
            variance=lambda mu: mu,
            unit_deviance=lambda y, mu: 2 * (xlogy(y, y / mu) - (y - mu)),
            bounds=(_TINY, np.inf),
            domain="not negative, and not all 0",
            accepts=lambda low, high: low >= 0 and high > 0,
            generator=lambda y: xlogy(y, y),
            log_base=lambda y: xlogy(y, y) - y - gammaln(y + 1),
            log_scale=lambda scale: 0.0,
            start=lambda y, mean: (y + mean) / 2,
            scale=1.0,
        ),
        Family(
            "gamma",
            links=(LOG, INVERSE),
            variance=np.square,
            unit_deviance=lambda y, mu: 2 * ((y - mu) / mu - np.log(y / mu)),
            bounds=(_TINY, np.inf),
            domain="positive",
            accepts=lambda low, high: low > 0,
            generator=lambda y: -np.log(y),
            log_base=lambda y: -np.log(y),
            log_scale=lambda scale: -(1 + np.log(scale)) / scale - gammaln(1 / scale),
            start=lambda y, mean: (y + mean) / 2,
            scale=None,
        ),
    )
}


def find_family(name, link=None):
    """
    Look up a family and one of its links.

    Parameters
    ----------
    name : str
        One of `FAMILIES`.
    link : str or None
        Name of one of the family's links; None for its default.

    Returns
    -------
    family : Family
    link : Link

    Raises
    ------
    ValueError
        If there is no such family, or it has no such link.

    Examples
    --------
    >>> find_family("gamma")[1].name
    'log'
    """
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got family={name!r}")
    family = FAMILIES[name]
    links = {candidate.name: candidate for candidate in family.links}
    if link is not None and link not in links:
        raise ValueError(f"link of {name} must be one of {tuple(links)}, got link={link!r}")
    return family, family.links[0] if link is None else links[link]

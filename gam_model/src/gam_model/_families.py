"""Exponential families and link functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, gammaincinv, gammaln, logit, ndtr, ndtri, xlog1py, xlogy

_HUGE = np.finfo(float).max
# Lower bound of the mean of counts and amounts, so that y / mu is finite.
_TINY = 1e-200
# Distance of a binomial mu from 0 and 1, so that weights and deviance are finite.
_EDGE = np.finfo(float).eps
_LEAST = np.finfo(float).tiny
_MANY = 1e6  # counts treated as continuous, as SciPy computes their quantiles slowly


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
    lambda eta: np.exp(np.maximum(eta, np.log(_TINY))),
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
    lambda eta: np.maximum(np.square(eta), _TINY),
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


@dataclass(frozen=True)
class Family:
    """
    An exponential family: how the response scatters around its mean mu.

    It owns its whole law; no other module asks which family it is.

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
        Limits to which mu is clipped.
    domain : str
        Condition on y, for messages.
    accepts : callable
        Whether a minimum and maximum of y satisfy it.
    generator : callable
        t(y), elementwise; for weights w of sum n, sum w d(y, mean) / 2 = sum w t(y) - n t(mean).
    log_base : callable
        Log-likelihood of a row with mu = y, elementwise, except for `log_scale`.
    log_scale : callable
        Part of the log-likelihood that depends on the scale.
    scale : float or None
        The scale where the family fixes it; None where it is estimated.
    quantile : callable or None
        Quantiles of a new response, from the probabilities, mu, how uncertain mu is (its
        variance) and the scale; None where single responses are 0 or 1, or have no distribution.
    tails : callable or None
        Probabilities of a response below y and above it, from y, mu and the scale; where the
        distribution has steps, those of a point drawn from the step at y. It returns None for y
        that are not of the distribution, such as rates; None where there are two outcomes.
    is_rate : bool
        Whether y may be a rate of events, of which the weight is the number of trials, or the
        exposure.
    two_outcomes : bool
        Whether a single response is 0 or 1, so that y is a share.
    one_step : Link or None
        The link with which one least-squares step is the whole fit.
    location : bool
        Whether the deviance depends on y - mu alone, so that y may be shifted.

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
    scale: float | None
    quantile: Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray] | None
    tails: Callable[[np.ndarray, np.ndarray, float], tuple | None] | None = None
    is_rate: bool = False
    two_outcomes: bool = False
    one_step: Link | None = None
    location: bool = False

    def residuals(self, y, mu, scale):
        """
        Return quantile residuals, which are standard normal if the model holds.

        r = Phi^-1(F(y; mu, scale)) with F the family's distribution function; deviance residuals,
        sign(y - mu) sqrt(d / scale), where there is none.

        Parameters
        ----------
        y, mu : ndarray of shape (n_samples,)
            Response and its fitted mean.
        scale : float
            The family's scale.

        Returns
        -------
        ndarray of shape (n_samples,)
            Residuals, the same at each call.

        References
        ----------
        Dunn and Smyth (1996), "Randomized quantile residuals", Journal of Computational and
        Graphical Statistics 5(3).
        """
        scale = max(scale, _LEAST)  # it is 0 for an exact fit
        if self.location:
            return (y - mu) / np.sqrt(scale)
        tails = self.tails(y, mu, scale) if self.tails else None
        if tails is None:
            deviance = np.maximum(self.unit_deviance(y, mu), 0.0)
            return np.sign(y - mu) * np.sqrt(deviance / scale)
        # Each tail probability is computed directly, to keep its precision.
        low, high = (-ndtri(np.clip(tail, _LEAST, 1.0)) for tail in tails)
        return np.where(tails[0] < tails[1], -low, high)


# A new response varies by V(mu) scale + variance: a normal; for counts a negative binomial, for
# gamma a gamma of lower shape.


def _normal_quantile(p, mu, variance, scale):
    return mu + np.sqrt(scale + variance) * ndtri(p)


def _count_quantile(p, mu, variance, _):
    from scipy import stats  # slow to import, and not needed for serving

    size = mu / np.maximum(variance / mu, 1e-9 * mu)
    few = np.minimum(mu, _MANY)
    counts = stats.nbinom.ppf(p, size, size / (size + few))
    return np.where(mu < _MANY, counts, np.rint(_gamma_quantile(p, mu, variance, 1 / mu)))


def _gamma_quantile(p, mu, variance, scale):
    shape = 1 / (scale + variance / mu / mu)
    return mu * (gammaincinv(shape, p) / shape)


def _count_tails(y, mu, _):
    from scipy import stats

    if not np.array_equal(y, np.floor(y)):
        return None
    law, u = stats.poisson(mu), np.random.default_rng(0).uniform(size=len(y))
    step = u * law.pmf(y)
    return law.cdf(y - 1) + step, law.sf(y - 1) - step


def _gamma_tails(y, mu, scale):
    from scipy import stats

    law = stats.gamma(1 / scale, scale=mu * scale)
    return law.cdf(y), law.sf(y)


def _inverse_gaussian(mu, scale):
    from scipy import stats

    return stats.invgauss(mu * scale, scale=1 / scale)


def _inverse_gaussian_quantile(p, mu, variance, scale):
    return _inverse_gaussian(mu, scale + variance / mu**3).ppf(p)


def _inverse_gaussian_tails(y, mu, scale):
    law = _inverse_gaussian(mu, scale)
    return law.cdf(y), law.sf(y)


# Deviances are functions of q = y / mu, flat at q = 1, so rounding of q has no effect where y is
# near mu, and there is no cancellation of large numbers.


def _poisson_deviance(y, mu):
    q = y / mu
    return 2 * (xlogy(y, q) - mu * (q - 1))


def _binomial_deviance(y, mu):
    return _poisson_deviance(y, mu) + _poisson_deviance(1 - y, 1 - mu)


def _gamma_deviance(y, mu):
    q = y / mu
    return 2 * (q - 1 - np.log(q))


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
            scale=None,
            quantile=_normal_quantile,
            one_step=IDENTITY,
            location=True,
        ),
        Family(
            "binomial",
            links=(LOGIT, PROBIT, CLOGLOG),
            variance=lambda mu: mu * (1 - mu),
            unit_deviance=_binomial_deviance,
            bounds=(_EDGE, 1 - _EDGE),
            domain="between 0 and 1",
            accepts=lambda low, high: low >= 0 and high <= 1,
            generator=lambda y: xlogy(y, y) + xlog1py(1 - y, -y),
            log_base=lambda y: xlogy(y, y) + xlog1py(1 - y, -y),
            log_scale=lambda scale: 0.0,
            scale=1.0,
            quantile=None,
            is_rate=True,
            two_outcomes=True,
        ),
        Family(
            "poisson",
            links=(LOG, SQRT),
            variance=lambda mu: mu,
            unit_deviance=_poisson_deviance,
            bounds=(_TINY, np.inf),
            domain="not negative, and not all 0",
            accepts=lambda low, high: low >= 0 and high > 0,
            generator=lambda y: xlogy(y, y),
            log_base=lambda y: xlogy(y, y) - y - gammaln(y + 1),
            log_scale=lambda scale: 0.0,
            scale=1.0,
            quantile=_count_quantile,
            tails=_count_tails,
            is_rate=True,
        ),
        Family(
            "gamma",
            links=(LOG, INVERSE),
            variance=np.square,
            unit_deviance=_gamma_deviance,
            bounds=(_TINY, np.inf),
            domain="positive",
            accepts=lambda low, high: low > 0,
            generator=lambda y: -np.log(y),
            log_base=lambda y: -np.log(y),
            log_scale=lambda scale: -(1 + np.log(scale)) / scale - gammaln(1 / scale),
            scale=None,
            quantile=_gamma_quantile,
            tails=_gamma_tails,
        ),
        Family(
            "inverse_gaussian",
            links=(LOG,),
            variance=lambda mu: mu**3,
            unit_deviance=lambda y, mu: (y / mu - 1) ** 2 / y,
            bounds=(_TINY**0.5, _TINY**-0.5),  # of which the cube is a number
            domain="positive",
            accepts=lambda low, high: low > 0,
            generator=lambda y: 0.5 / y,
            log_base=lambda y: -1.5 * np.log(y),
            log_scale=lambda scale: -0.5 * np.log(2 * np.pi * scale),
            scale=None,
            quantile=_inverse_gaussian_quantile,
            tails=_inverse_gaussian_tails,
        ),
    )
}
# A mean and a variance without a distribution: no likelihood, and no quantiles of a response.
FAMILIES |= {
    f"quasi{name}": replace(
        FAMILIES[name],
        name=f"quasi{name}",
        scale=None,
        log_scale=lambda scale: np.nan,
        quantile=None,
        tails=None,
    )
    for name in ("binomial", "poisson")
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


def check_mean(family, link, mean):
    """
    Raise an error if the link is not defined at the mean of y, where the fit would start.

    Parameters
    ----------
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    mean : float
        Mean of y.

    Raises
    ------
    ValueError
        If the link is not defined there.
    """
    low, high = link.means
    if not low < np.clip(mean, *family.bounds) < high:
        others = " or ".join(repr(other.name) for other in family.links if other is not link)
        raise ValueError(
            f"with link={link.name!r} the mean of y must lie between {low:g} and {high:g}, but it "
            f"is {mean:g}; shift y, or use link={others}"
        )

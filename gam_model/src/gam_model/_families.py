"""Families: the distribution of the response, each with its whole law."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaincinv, gammaln, ndtri, stdtr, stdtrit, xlog1py, xlogy

from gam_model import _tweedie
from gam_model._links import CLOGLOG, IDENTITY, INVERSE, LOG, LOGIT, PROBIT, SQRT, TINY, Link

# Distance of a binomial mu from 0 and 1, so that weights and deviance are finite.
_EDGE = np.finfo(float).eps
_LEAST = np.finfo(float).tiny
_MANY = 1e6  # counts treated as continuous, as SciPy computes their quantiles slowly
_LEARNED_FROM = 20_000  # rows that a parameter of a costly likelihood is learned from
_DIGITS = 5  # significant ones of a parameter that was learned


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
        Whether the deviance depends on y - mu alone, and squares it, so that y may be shifted.
    pull : callable or None
        What stands for y - mu in a step of the fit, from y and mu, where the slope of the
        log-likelihood by mu is not (y - mu) / (V(mu) scale).
    unknown : Unknown or None
        What is to be learned from the rows: the family's own parameters and its scale.

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
    pull: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    unknown: "Unknown | None" = None

    @property
    def n_estimated(self):
        """Number of parameters estimated beside the mean, the scale among them."""
        return len(self.unknown.at) if self.unknown else int(self.scale is None)

    @property
    def estimates_scale(self):
        """Whether the scale is an estimate, so that tests are by F."""
        return self.unknown.with_scale if self.unknown else self.scale is None

    def learn(self, y, mu, weight, spent):
        """
        Learn the parameters that are unknown, given the means.

        They maximise sum_i w_i (l(y_i; mu_i) + spent / 2 log(V(mu_i) scale)) / sum_i w_i. The
        second part is that of the restricted likelihood, -1/2 log|B'WB + S|, which makes up for
        the degrees of freedom that mu was fitted with, here shared by all rows alike.

        Parameters
        ----------
        y, mu, weight : ndarray of shape (n_samples,)
            Rows, their fitted means and weights.
        spent : float
            Effective degrees of freedom of the fit, by the sum of the weights of all rows.

        Returns
        -------
        Family
            With these parameters.

        References
        ----------
        Wood, Pya and Saefken (2016), "Smoothing parameter and model selection for general smooth
        models", Journal of the American Statistical Association 111, section 3.
        """
        mu = np.clip(mu, *self.bounds)
        if self.unknown.costly:
            few = slice(None, None, 1 + (len(y) - 1) // _LEARNED_FROM)
            y, mu, weight = y[few], mu[few], weight[few]
        share = weight / weight.sum()

        def loss(at):
            law = self.unknown.build(*at)
            likelihood = law.log_base(y) - law.unit_deviance(y, mu) / law.scale / 2
            spread = np.log(law.variance(mu) * law.scale)
            return -float(share @ (likelihood + spent / 2 * spread))

        found = minimize(
            loss, self.unknown.at, method="L-BFGS-B", bounds=self.unknown.bounds,
            options={"ftol": 1e-13, "gtol": 1e-7},
        )  # fmt: skip
        return self.unknown.build(*found.x, digits=_DIGITS)

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


@dataclass(frozen=True)
class Unknown:
    """
    What a family learns from the rows.

    Parameters
    ----------
    build : callable
        Returns the family, from values such as `at`.
    at : tuple of float
        The present values, most of them logarithms.
    bounds : tuple of tuple
        Least and greatest of each.
    with_scale : bool
        Whether the scale is among them.
    costly : bool
        Whether the likelihood is so slow that some of the rows must do.
    """

    build: Callable[..., Family]
    at: tuple[float, ...]
    bounds: tuple[tuple[float, float], ...]
    with_scale: bool = False
    costly: bool = False


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


def _count_tails(y, mu, _, size=None):
    from scipy import stats

    if not np.array_equal(y, np.floor(y)):
        return None
    law = stats.poisson(mu) if size is None else stats.nbinom(size, size / (size + mu))
    u = np.random.default_rng(0).uniform(size=len(y))
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
            bounds=(TINY, np.inf),
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
            bounds=(TINY, np.inf),
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
            bounds=(TINY**0.5, TINY**-0.5),  # of which the cube is a number
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


_ANY = (-60.0, 60.0)  # logarithms of a scale


def _round(value, digits):
    return float(value) if digits is None else float(f"{value:.{digits}g}")


def _build_negative_binomial(log_size=0.0, given=None, digits=None):
    """Build it for counts of variance mu + mu^2 / size: Poisson, with means that are gamma."""
    size = _round(np.exp(log_size), digits) if given is None else given

    def unit_deviance(y, mu):
        # As (y + size) / (mu + size) = 1 + (y - mu) / (mu + size), nothing cancels near y = mu.
        away = (y - mu) / (mu + size)
        return 2 * (xlogy(y, y / mu) - xlog1py(y + size, away))

    def log_base(y):
        counts = gammaln(y + size) - gammaln(size) - gammaln(y + 1)
        return counts - xlog1py(size, y / size) + xlogy(y, y / (y + size))

    return replace(
        FAMILIES["poisson"],
        name=f"negative_binomial({size!r})",
        links=(LOG, SQRT),
        variance=lambda mu: mu + mu * (mu / size),
        unit_deviance=unit_deviance,
        bounds=(TINY, TINY**-0.5),
        generator=lambda y: xlogy(y, y) - xlogy(y + size, y + size),
        log_base=log_base,
        quantile=lambda p, mu, variance, _: _count_quantile(p, mu, variance + mu**2 / size, 1.0),
        tails=lambda y, mu, _: _count_tails(y, mu, 1.0, size),
        is_rate=False,
        unknown=None
        if given is not None
        else Unknown(_build_negative_binomial, (float(np.log(size)),), ((-7.0, 14.0),)),
    )


def _build_tweedie(log_scale=0.0, power=1.5, given=None, digits=None):
    """Build it for amounts of which many are zero, a Poisson number of gamma amounts."""
    power = _round(power, digits) if given is None else given
    scale, left = _round(np.exp(log_scale), digits), 2 - power

    def unit_deviance(y, mu):
        q = y / mu
        return 2 * mu**left * (q**left / ((1 - power) * left) - q / (1 - power) + 1 / left)

    def quantile(p, mu, variance, scale):
        p, mu, wide = np.broadcast_arrays(p, mu, scale + variance / mu**power)
        flat = (part.ravel() for part in (p, mu))
        found = _tweedie.quantile(*flat, power, wide.ravel())
        return found.reshape(p.shape)

    def tails(y, mu, scale):
        law = mu, power, np.full(len(y), scale)
        none, u = _tweedie.none(*law), np.random.default_rng(0).uniform(size=len(y))
        step = np.where(y > 0, none, none * u)
        below, above = (_tweedie.tail(y, *law, above=side) for side in (False, True))
        return step + below, above + none - step

    return Family(
        f"tweedie({power!r})",
        links=(LOG,),
        variance=lambda mu: mu**power,
        unit_deviance=unit_deviance,
        bounds=(TINY**0.5, TINY**-0.5),
        domain="not negative, and not all 0",
        accepts=lambda low, high: low >= 0 and high > 0,
        generator=lambda y: y**left / ((1 - power) * left),
        log_base=lambda y: _tweedie.log_saturated(y, power, scale),
        log_scale=lambda scale: 0.0,
        scale=scale,
        quantile=quantile,
        tails=tails,
        unknown=Unknown(
            partial(_build_tweedie, given=given),
            (float(np.log(scale)), power)[: 1 + (given is None)],
            (_ANY, (1.01, 1.99))[: 1 + (given is None)],
            with_scale=True,
            costly=True,
        ),
    )


def _build_scaled_t(log_scale=0.0, log_df=1.6, given=None, digits=None):
    """Build it for responses with outliers, t around mu, with the scale as its squared unit."""
    df = _round(np.exp(log_df), digits) if given is None else given
    scale = _round(np.exp(log_scale), digits)
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(np.pi * df * scale)

    def tails(y, mu, scale):
        t = (y - mu) / np.sqrt(scale)
        return stdtr(df, t), stdtr(df, -t)

    return replace(
        FAMILIES["gaussian"],
        name=f"scaled_t({df!r})",
        # The expected information of a row is (df + 1) / (df + 3) / scale.
        variance=lambda mu: np.full_like(mu, (df + 3) / (df + 1)),
        unit_deviance=lambda y, mu: scale * (df + 1) * np.log1p((y - mu) ** 2 / (df * scale)),
        generator=np.zeros_like,
        log_base=lambda y: np.full_like(y, constant),
        log_scale=lambda scale: 0.0,
        scale=scale,
        quantile=lambda p, mu, variance, scale: mu + np.sqrt(scale + variance) * stdtrit(df, p),
        tails=tails,
        one_step=None,
        location=False,
        pull=lambda y, mu: (df + 3) * (y - mu) / (df + (y - mu) ** 2 / scale),
        unknown=Unknown(
            partial(_build_scaled_t, given=given),
            (float(np.log(scale)), float(np.log(df)))[: 1 + (given is None)],
            (_ANY, (np.log(2.0), np.log(1000.0)))[: 1 + (given is None)],
            with_scale=True,
        ),
    )


# Families with a parameter of their own: how they are built, what it is called, and its bounds.
_OWN = {
    "negative_binomial": (_build_negative_binomial, "the size", 0.0, np.inf),
    "tweedie": (_build_tweedie, "the power", 1.0, 2.0),
    "scaled_t": (_build_scaled_t, "the degrees of freedom", 1.0, np.inf),
}
FAMILIES |= {name: replace(build(), name=name) for name, (build, *_) in _OWN.items()}


def find_family(name, link=None):
    """
    Look up a family and one of its links.

    Parameters
    ----------
    name : str
        One of `FAMILIES`; a parameter of its own may follow in brackets, as in "tweedie(1.5)".
        Else it is learned from the rows.
    link : str or None
        Name of one of the family's links; None for its default.

    Returns
    -------
    family : Family
    link : Link

    Raises
    ------
    ValueError
        If there is no such family, the family has no such link, or the parameter is out of bounds.

    Examples
    --------
    >>> find_family("gamma")[1].name
    'log'
    """
    own = re.fullmatch(r"(\w+)\((.+)\)", name) if isinstance(name, str) else None
    if own and own[1] in _OWN:
        family = _build_given(name, *own.groups())
    elif name in FAMILIES:
        family = FAMILIES[name]
    else:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got family={name!r}")
    links = {candidate.name: candidate for candidate in family.links}
    if link is not None and link not in links:
        raise ValueError(f"link of {name} must be one of {tuple(links)}, got link={link!r}")
    return family, family.links[0] if link is None else links[link]


def _build_given(family, name, text):
    build, what, low, high = _OWN[name]
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not low < value < high:
        raise ValueError(
            f"{what} of {name} must be a number between {low:g} and {high:g}, or be left out to "
            f"learn it from the rows, got family={family!r}"
        )
    return build(given=value)


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

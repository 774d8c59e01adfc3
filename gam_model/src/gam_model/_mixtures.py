"""Weighted sums of chi-squared variables, the null distribution of quadratic forms."""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

_FAR = 60.0  # where the contour ends; along it the integrand falls at least as exp(-v / 2)


def exceed(x, weights, df):
    """
    Return the probability that a weighted sum of independent chi-squared variables exceeds x.

    P = P(sum_i weights_i chi2(df_i) > x) = 1/(2 pi i) integral of exp(K(s) - x s) / s ds,
    K(s) = -1/2 sum_i df_i log(1 - 2 weights_i s)

    along a hyperbola that crosses the real axis where the integrand is least there, so that
    nothing cancels, and a small probability keeps its digits, too.

    Parameters
    ----------
    x : float
        The threshold.
    weights : ndarray of shape (n,)
        Weights, of which one at least is positive.
    df : ndarray of shape (n,)
        Degrees of freedom, positive, but not necessarily whole.

    Returns
    -------
    float
        To about seven digits.

    References
    ----------
    Rice (1980), "Distribution of quadratic forms in normal random variables: evaluation by
    numerical integration", SIAM Journal on Scientific and Statistical Computing 1(4).

    Examples
    --------
    >>> weights, df = np.array([3.0, 1.0]), np.array([1, 1])
    >>> [f"{exceed(x, weights, df):.4g}" for x in (1.0, 10.0, 1000.0)]
    ['0.754', '0.08963', '2.214e-74']
    """
    if x <= 0 and weights.min() >= 0:
        return 1.0
    x, weights = x / weights.max(), weights / weights.max()
    positive = weights > 0

    def slope(s):
        return np.sum(df * weights / (1 - 2 * weights * s)) - x - 1 / s

    def log(s):
        return -0.5 * np.sum(df * np.log1p(-2 * weights * s)) - x * s - np.log(s)

    # The integrand is least between its pole at 0 and its branch point at 1/2.
    low = min(0.125, 0.25 / (df[positive] @ weights[positive] + max(-x, 0.0)))
    high = 0.5 * (1 - 1e-14)
    if slope(high) <= 0:
        return 0.0  # x is larger than 1e13
    middle = brentq(slope, low, high)
    ratio = weights / (1 - 2 * weights * middle)
    second = np.sum(2 * df * ratio**2) + 1 / middle**2
    third = np.sum(8 * df * ratio**3) - 2 / middle**3
    width = second**-0.5
    # The hyperbola follows the path of steepest descent to second order, never to the left, and
    # not to the right either where exp(-x s) would grow there.
    bend = np.clip(third / second**2 / 3, width / (1 + df[positive].sum()), width) * (x >= 0)
    top = log(middle)

    def integrand(v):
        s = middle + bend * (np.cosh(v) - 1) + 1j * width * np.sinh(v)
        ds = bend * np.sinh(v) + 1j * width * np.cosh(v)
        return (np.exp(log(s) - top) * ds).imag

    # With the full output it is quiet where rounding keeps it from the last of these digits.
    area = quad(integrand, 0.0, _FAR, epsabs=0.0, epsrel=1e-8, limit=500, full_output=True)[0]
    return float(min(np.exp(top) * area / np.pi, 1.0))

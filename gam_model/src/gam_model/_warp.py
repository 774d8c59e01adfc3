"""A monotone scale for a column with very unevenly distributed values, such as amounts."""

from typing import NamedTuple

import numpy as np

_LEVELS = 40  # quantiles used to measure unevenness
_UNEVEN = 6  # arithmetic over geometric mean of the gaps between them; normal values have about 2


class Warp(NamedTuple):
    """
    The monotone scale t = arcsinh((x - center) / width).

    It is linear near the center and logarithmic far from it, to either side.

    Parameters
    ----------
    center, width : float
        In the units of x; width is positive.

    References
    ----------
    Burbidge, Magee and Robb (1988), "Alternative transformations to handle extreme values of the
    dependent variable", Journal of the American Statistical Association 83.

    Examples
    --------
    >>> warp = Warp(center=10.0, width=1.0)
    >>> warp(np.array([10.0, 1010.0])).round(2)
    array([0. , 7.6])
    >>> warp.invert(warp(np.array([1010.0]))).round(6)
    array([1010.])
    """

    center: float
    width: float

    def __call__(self, x):
        """Return t of x, an ndarray of any shape."""
        return np.arcsinh((x - self.center) / self.width)

    def invert(self, t):
        """Return x of t, an ndarray of any shape."""
        return self.center + self.width * np.sinh(t)

    def describe(self, name):
        """Return the formula as text, for a column of this name."""
        if self.center:
            sign = "+" if self.center < 0 else "-"
            name = f"({name} {sign} {abs(self.center):.4g})"
        return f"arcsinh({name} / {self.width:.4g})"


def propose_warps(values):
    """
    Find scales on which a column's values are spread more evenly, if they are very uneven.

    How uneven they are is told by the gaps between quantiles: the ratio of their arithmetic to
    their geometric mean. There is a scale with its center at the least value, one at the median
    and one at the greatest, each of the width, a power of two, with the least ratio; those that
    leave the values uneven are not returned, unless all do.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        The distinct values in ascending order; how often one occurs doesn't matter.

    Returns
    -------
    list of Warp
        Empty if the ratio is below 6, as it is for normal, uniform or exponential values.

    Examples
    --------
    >>> propose_warps(np.arange(100.0))
    []
    >>> [round(warp.center) for warp in propose_warps(np.exp(np.arange(20.0)))]
    [1]
    """
    if len(values) < 4:
        return []
    points = values if len(values) <= _LEVELS else np.quantile(values, np.linspace(0, 1, _LEVELS))
    gaps = np.diff(points)
    if _unevenness(gaps) < np.log(_UNEVEN):
        return []
    widths = [w for w in gaps.max() * 2.0 ** -np.arange(60) if w > 1e-3 * gaps.min()]
    found = []
    for center in (points[0], points[len(points) // 2], points[-1]):
        warps = [Warp(float(center), float(width)) for width in widths]
        left = [_unevenness(np.diff(warp(points))) for warp in warps]
        found.append((min(left), warps[int(np.argmin(left))]))
    enough = max(np.log(_UNEVEN), min(left for left, _ in found))
    return [warp for left, warp in found if left <= enough]


def _unevenness(gaps):
    return np.log(gaps.mean()) - np.log(np.maximum(gaps, np.finfo(float).tiny)).mean()

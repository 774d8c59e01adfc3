"""The original path: the same model, fitted by statsmodels' GLMGam."""

import warnings

import numpy as np


def fit_glmgam(rows, alpha, names):
    """
    Fit a gaussian additive model with identity link by statsmodels.

    Parameters
    ----------
    rows : Rows
        The rows, and the basis with the knots.
    alpha : ndarray of shape (n_terms,)
        Penalty weight of each term, as statsmodels means it.
    names : list of str
        Name of each column of X, for the summary.

    Returns
    -------
    coef : ndarray of shape (n_coef,)
        Intercept, then each term's B-spline coefficients but the first, which is 0.
    means : ndarray of shape (n_coef - 1,)
        Mean of each B-spline that is not left out.
    edf : ndarray of shape (n_coef,)
        Effective degrees of freedom of each coefficient.
    scale : float
        Residual variance.
    summary : str
        statsmodels' summary, or why there is none.
    """
    # Here and not above: serving a fitted model must not pay for, or need, statsmodels.
    from statsmodels.gam.generalized_additive_model import GLMGam, penalized_wls
    from statsmodels.gam.smooth_basis import BSplines
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    y, weight, knots, degree = rows.y, rows.weight, rows.basis.knots, rows.basis.degree
    columns = list(knots)
    bases = BSplines(
        rows.X[:, columns],
        df=[len(t) - degree - 1 for t in knots.values()],
        degree=[degree] * len(knots),
        variable_names=[names[j] for j in columns],
        knot_kwds=[{"all_knots": t} for t in knots.values()],
    )
    model = GLMGam(y, exog=np.ones((len(y), 1)), smoother=bases, alpha=alpha.tolist())

    with warnings.catch_warnings():
        # Collinear columns are no error: the solution of least norm predicts as well as any.
        warnings.simplefilter("ignore", SingularMatrixWarning)
        # P-IRLS with an identity link is this one step; GLMGam.fit has no answer to an exact fit.
        penalty = model.penal.penalty_matrix(alpha=model.alpha)
        step = penalized_wls(y, model.exog, penalty, weight)
        residual = y - model.exog @ step.params
        gram = model.exog.T @ (model.exog * weight[:, None])
        edf = np.einsum("ij,ji->i", step.normalized_cov_params, gram)
        left = weight.sum() - edf.sum()
        rounding = 2e-8 + 1e-12 * abs(y).max()  # statsmodels takes 1e-8 for exact at any scale
        if abs(residual).max() <= rounding or left < 0.01:
            summary = (
                f"The fit is exact (largest residual {abs(residual).max():.1e}): "
                "there is no residual variance to take standard errors from."
            )
        else:
            # It divides a first guess of the scale, which cancels; for a wide basis it is 0.
            model.df_resid = max(model.df_resid, 1)
            summary = model.fit(start_params=step.params, weights=weight).summary().as_text()
    means = np.average(bases.basis, axis=0, weights=weight)
    return step.params, means, edf, float(weight @ residual**2) / max(left, 1.0), summary

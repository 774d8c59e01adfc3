"""Every public object says what it takes, what it gives, and in which units."""

import inspect

import pytest
from numpydoc.validate import validate

import gam_model

# Not asked for: text that begins below the quotes (GL01), an extended summary, a See Also and an
# example on every method (ES01, SA01, EX01), a capital letter on mu and eta (PR08, RT04).
IGNORED = {"GL01", "ES01", "SA01", "EX01", "PR08", "RT04"}


DRAWN = ("plots.plot_terms", "plots.plot_contributions", "plots.plot_diagnostics")


def public():
    yield from (*DRAWN, "report.write_report")
    for name in gam_model.__all__:
        yield name
        for attribute, value in inspect.getmembers(getattr(gam_model, name)):
            ours = str(getattr(value, "__module__", "")).startswith("gam_model")
            if not attribute.startswith("_") and callable(value) and ours:
                yield f"{name}.{attribute}"


@pytest.mark.parametrize("name", [*public()])
def test_numpydoc(name):
    errors = [
        f"{code} {text}"
        for code, text in validate(f"gam_model.{name}")["errors"]
        if code not in IGNORED
    ]
    assert errors == []


def test_what_is_public_is_found():
    assert {"GAMRegressor.fit_chunks", "AdditiveModel.load", "GAMClassifier.terms"} <= set(
        public()
    )

"""Packages that a part of the library needs, and a fit does not: the extras of pyproject.toml."""

import importlib


def load(module, what, extra):
    """
    Import a module of an optional package.

    Parameters
    ----------
    module : str
        Its name.
    what : str
        What needs it, for the message: "summary() needs".
    extra : str
        The extra of this package that installs it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f'{what} {package}; run pip install "gam_model[{extra}]"', name=package
        ) from error

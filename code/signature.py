"""What a model takes and answers, as the metadata of KServe's protocol v2 have it."""

from collections.abc import Mapping

_DATATYPES = {float: "FP64", str: "BYTES"}


def describe(inputs: Mapping[str, type], outputs: Mapping[str, type]) -> dict[str, list[dict]]:
    """Return a tensor for each column, of as many cells as there are rows.

    Parameters
    ----------
    inputs, outputs : mapping of str to type
        The columns, in the model's order, each of float or str.

    Returns
    -------
    dict
        ``inputs`` and ``outputs``, each a list of ``name``, ``datatype`` and ``shape``.

    Examples
    --------
    >>> describe({"age": float}, {"prediction": str})["outputs"]
    [{'name': 'prediction', 'datatype': 'BYTES', 'shape': [-1]}]
    """
    return {
        side: [
            {"name": name, "datatype": _DATATYPES[kind], "shape": [-1]}
            for name, kind in columns.items()
        ]
        for side, columns in (("inputs", inputs), ("outputs", outputs))
    }

"""One program and its model, behind one call: bytes and types in, bytes and a type out."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Context(NamedTuple):
    """What a hook gets that takes one parameter more than SageMaker's contract gives it."""

    model_dir: str
    request_headers: dict[str, str]


# Hook -> number of parameters without the context. Hooks are called by arity, as AWS's own
# servers do it, so a hook may ask for the context by one parameter more.
_ARITY = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4}


class Program:
    """A loaded program with its model.

    Parameters
    ----------
    name : str
        File name of the program.
    code_dir, model_dir : Path
        Where the program and the model lie.

    Raises
    ------
    ValueError
        If the program is not there or lacks a hook. Whatever its import and its ``model_fn``
        raise goes through.
    """

    def __init__(self, name: str, code_dir: Path, model_dir: Path):
        path = code_dir / name
        if not path.is_file():
            raise ValueError(f"no program {name!r} in {code_dir}")
        if str(code_dir) not in sys.path:
            sys.path.insert(0, str(code_dir))
        module = importlib.import_module(path.stem)
        self._hooks = {
            hook: _by_arity(getattr(module, hook), arity)
            for hook, arity in _ARITY.items()
            if hasattr(module, hook)
        }
        whole = ("transform_fn",) if "transform_fn" in self._hooks else tuple(_ARITY)[1:4]
        missing = [hook for hook in ("model_fn", *whole) if hook not in self._hooks]
        if missing:
            raise ValueError(f"{name} lacks {' and '.join(missing)}")
        self._model_dir = str(model_dir)
        self._model = self._hooks["model_fn"](self._model_dir, Context(self._model_dir, {}))

    def __call__(
        self, body: bytes, content_type: str, accept: str, headers: dict[str, str]
    ) -> tuple[bytes, str]:
        """Answer one request.

        Returns
        -------
        body : bytes
        content_type : str
        """
        hooks, context = self._hooks, Context(self._model_dir, headers)
        if "transform_fn" in hooks:
            result = hooks["transform_fn"](self._model, body, content_type, accept, context)
        else:
            data = hooks["input_fn"](body, content_type, context)
            prediction = hooks["predict_fn"](data, self._model, context)
            result = hooks["output_fn"](prediction, accept, context)
        # As in AWS's servers, a hook may leave the type to the request's Accept.
        content, content_type = result if isinstance(result, tuple) else (result, accept)
        content = content.encode() if isinstance(content, str) else content
        if not isinstance(content, bytes) or not isinstance(content_type, str):
            raise TypeError(
                f"the program answered with {type(content).__name__} and a content type of "
                f"{type(content_type).__name__}; expected bytes or str, and str"
            )
        return content, content_type


def _by_arity(hook: Callable[..., Any], arity: int) -> Callable[..., Any]:
    if len(inspect.signature(hook).parameters) > arity:
        return hook
    return lambda *arguments: hook(*arguments[:arity])

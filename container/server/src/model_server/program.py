"""A program and its model as one call: bytes and types in, bytes and a type out."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


def _count_nothing(name: str, value: str, n: int = 1) -> None:
    pass


@dataclass
class Context:
    """The context passed to hooks with one parameter more than SageMaker's contract has.

    Parameters
    ----------
    model_dir : str
    request_headers : dict of str to str
        Names in lower case.
    custom_attributes : str
        X-Amzn-SageMaker-Custom-Attributes of the request. The response returns its final value.
    count : callable
        ``count(name, value, n=1)`` adds to one of the program's own counters, see `Counter`.
    """

    model_dir: str
    request_headers: dict[str, str]
    custom_attributes: str = ""
    count: Callable[..., None] = field(default=_count_nothing, repr=False)


@dataclass(frozen=True)
class Counter:
    """A counter of the program's own in ``/metrics``, by the values of one label.

    A program declares counters in ``counters_fn(model)``, which maps each counter's name to a
    mapping of these three.

    Parameters
    ----------
    help : str
        What is counted, a sentence.
    label : str
    values : sequence of str
        All possible values.
    """

    help: str
    label: str
    values: Sequence[str]


class RequestError(ValueError):
    """A request that cannot be passed to the program."""

    status = 400


class Result(NamedTuple):
    """The response of a program."""

    body: bytes
    content_type: str
    custom_attributes: str
    headers: Mapping[str, str] = {}  # additional response headers


# Hook -> number of parameters without the context. As in AWS's own servers, a hook with one
# parameter more is passed the context.
_ARITY = {
    "model_fn": 1,
    "input_fn": 2,
    "predict_fn": 2,
    "output_fn": 2,
    "transform_fn": 4,
    "execution_parameters_fn": 0,
    "signature_fn": 1,
    "counters_fn": 1,
    "page_fn": 1,
}


class Program:
    """A loaded program with its model.

    Parameters
    ----------
    path : Path
        The program's file.
    folders : sequence of Path
        Folders of the modules that it imports, in order of precedence.
    model_dir : Path
        Folder of the model.

    Raises
    ------
    ValueError
        If the program is not a Python module or lacks a hook. Whatever its import and its
        ``model_fn`` raise goes through.

    Attributes
    ----------
    counters : dict of str to Counter
        The program's own, by name.
    add : callable or None
        Adds n to the i-th cell, where the cells are all values of all counters in their order.
        A worker sets it.
    """

    def __init__(self, path: Path, folders: Sequence[Path], model_dir: Path):
        self.path = path
        if path.suffix != ".py":
            raise ValueError(f"{path.name} is not a Python file; a program must be one")
        # The SDK puts dependencies into lib/ when it packs code into a model.
        places = [path.parent, *folders, *(folder / "lib" for folder in folders)]
        sys.path[:0] = map(str, dict.fromkeys(places))
        module = importlib.import_module(path.stem)
        if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
            raise ValueError(f"{path.name} has the name of another module; rename it")
        self._hooks = {
            hook: _by_arity(getattr(module, hook), arity)
            for hook, arity in _ARITY.items()
            if hasattr(module, hook)
        }
        whole = ("transform_fn",) if "transform_fn" in self._hooks else tuple(_ARITY)[1:4]
        missing = [hook for hook in ("model_fn", *whole) if hook not in self._hooks]
        if missing:
            raise ValueError(f"{path.name} lacks {' and '.join(missing)}")
        self._model_dir = str(model_dir)
        self._model = self._hooks["model_fn"](self._model_dir, Context(self._model_dir, {}))
        self.counters = self._name_counters()
        cells = [(name, value) for name, one in self.counters.items() for value in one.values]
        self._cells = {cell: i for i, cell in enumerate(cells)}
        self.add: Callable[[int, int], None] | None = None

    def __call__(
        self, body: bytes, content_type: str, accept: str, headers: dict[str, str]
    ) -> Result:
        """Answer one request."""
        hooks = self._hooks
        attributes = headers.get(CUSTOM_ATTRIBUTES, "")
        if not attributes.isprintable():
            raise RequestError(
                f"X-Amzn-SageMaker-Custom-Attributes holds {attributes!a:.100}, which is not all "
                "visible characters; send ASCII"
            )
        context = Context(self._model_dir, headers, attributes, self._count)
        if "transform_fn" in hooks:
            result = hooks["transform_fn"](self._model, body, content_type, accept, context)
        else:
            data = hooks["input_fn"](body, content_type, context)
            prediction = hooks["predict_fn"](data, self._model, context)
            result = hooks["output_fn"](prediction, accept, context)
        # As in AWS's servers, a hook may omit the type, which is then the request's Accept.
        content, content_type = result if isinstance(result, tuple) else (result, accept)
        content = content.encode() if isinstance(content, str) else content
        if not isinstance(content, bytes) or not isinstance(content_type, str):
            raise TypeError(
                f"the program answered with {type(content).__name__} and a content type of "
                f"{type(content_type).__name__}; expected bytes or str, and str"
            )
        for value in (content_type, context.custom_attributes):
            if not value.isprintable():
                raise ValueError(
                    f"the program answered with {value!r}, which is not a valid header value"
                )
            value.encode("latin-1")  # HTTP's own encoding of header values
        return Result(content, content_type, context.custom_attributes)

    def execution_parameters(self, default: dict[str, Any]) -> dict[str, Any]:
        """Return the batch transform parameters; the program's override the defaults."""
        hook = self._hooks.get("execution_parameters_fn")
        return default | hook(Context(self._model_dir, {})) if hook else default

    def signature(self) -> dict[str, dict[str, str]]:
        """Return the model's inputs and outputs, as far as the program declares them.

        Returns
        -------
        dict
            ``inputs`` and ``outputs``: each name -> KServe's datatype, in order.
        """
        hook = self._hooks.get("signature_fn")
        return hook(self._model, Context(self._model_dir, {})) if hook else {}

    def page(self) -> str:
        """Return the page in front of the model, which the program writes.

        Raises
        ------
        ValueError
            If the program writes none.
        """
        hook = self._hooks.get("page_fn")
        if hook is None:
            raise ValueError(
                f"MODEL_SERVER_PAGE asks for a page, and {self.path.name} has no page_fn to write "
                "it; add page_fn, or unset the variable"
            )
        return str(hook(self._model_dir, Context(self._model_dir, {})))

    def _name_counters(self) -> dict[str, Counter]:
        hook = self._hooks.get("counters_fn")
        named = hook(self._model, Context(self._model_dir, {})) if hook else {}
        counters = {name: Counter(**parts) for name, parts in named.items()}
        for name in [*counters, *(counter.label for counter in counters.values())]:
            if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
                raise ValueError(
                    f"{self.path.name}: counters_fn names {name!r}; a name may contain only "
                    "ASCII letters, digits and _, and may not begin with a digit"
                )
        return counters

    def _count(self, name: str, value: str, n: int = 1) -> None:
        if (name, value) not in self._cells:
            raise ValueError(f"counters_fn does not name {value!r} of the counter {name!r}")
        if self.add:
            self.add(self._cells[name, value], n)


def _by_arity(hook: Callable[..., Any], arity: int) -> Callable[..., Any]:
    if len(inspect.signature(hook).parameters) > arity:
        return hook
    return lambda *arguments: hook(*arguments[:arity])

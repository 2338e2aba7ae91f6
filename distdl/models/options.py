"""`@options_of(Class)`: networks of a family that differ in a word or two, without their common arguments written out.

Such a network is a function that hands its `**options` on to the class of its family. The decorator gives it the
signature which the two have together, so that a config's misspelt argument is found before anything is built, and
help() lists what there is. distdl/config/document.py reads the same from the source.
"""

import inspect
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Function = TypeVar("Function", bound=Callable[..., nn.Module])


def options_of(family: type[nn.Module]) -> Callable[[Function], Function]:
    """The `**options` of the decorated function are the keyword-only arguments of that class."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        options = [p for p in inspect.signature(family).parameters.values() if p.kind is p.KEYWORD_ONLY]
        whole = [*parameters.values(), *(p for p in options if p.name not in parameters)]
        function.__signature__ = signature.replace(parameters=whole)  # type: ignore[attr-defined]
        return function

    return decorate

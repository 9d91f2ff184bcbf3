"""Giving functions that were imported another body, as a changed module would have given them.

Much quicker than importing everything anew, and the same for what runs in functions only.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType


def differs_in_functions(before: str, after: str) -> bool:
    """Whether two texts of a module differ in the bodies of functions alone."""
    one, other = (_bones(compile(text, "", "exec", dont_inherit=True)) for text in (before, after))
    return one == other


def imported(below: str) -> list[FunctionType]:
    """All functions there are of modules below a folder."""
    found = (one for one in gc.get_objects() if isinstance(one, FunctionType))
    return [one for one in found if one.__code__.co_filename.startswith(below)]


def swap(functions: Iterable[FunctionType], path: str, before: str, after: str) -> int:
    """Give those functions that were imported from `path` the bodies that they have in another text.

    How many there were; none if they are hidden.
    """
    old, new = (list(_functions(compile(text, path, "exec", dont_inherit=True))) for text in (before, after))
    changed = {one: other for one, other in zip(old, new, strict=True) if one != other}
    made = [one for one in functions if one.__code__.co_filename == path and one.__code__ in changed]
    for function in made:
        function.__code__ = changed[function.__code__]
    return len(made)


def _functions(code: CodeType) -> Iterator[CodeType]:
    """The outermost functions of a module, its lambdas included."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_flags & inspect.CO_OPTIMIZED:
                yield one
            else:
                yield from _functions(one)  # a class


def _bones(code: CodeType) -> tuple[object, ...]:
    """A module's or class's code without what is in its functions."""
    if code.co_flags & inspect.CO_OPTIMIZED:
        return (code.co_qualname, code.co_firstlineno)
    inner = tuple(_bones(one) if isinstance(one, CodeType) else (type(one), repr(one)) for one in code.co_consts)
    return (code.co_qualname, code.co_code, code.co_names, inner)

"""Finding declarations: every module of a folder that declares NAME, in a fixed order.

This is what makes a stream or a system one file: nothing is registered anywhere else.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def declared(package: ModuleType, attribute: str, kind: type[T]) -> dict[str, T]:
    """The `attribute` of each module in `package` by its `name`, sorted by name."""
    found: dict[str, T] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if module.name == "base" or module.name.startswith("_"):
            continue
        item = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), attribute, None)
        if not isinstance(item, kind):
            raise TypeError(f"{package.__name__}.{module.name} declares no {attribute}")
        if module.name != getattr(item, "name", module.name):
            raise TypeError(f"{package.__name__}.{module.name}: the file bears the name of what it declares")
        found[module.name] = item
    return found

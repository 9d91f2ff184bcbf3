"""Keeps pyarrow from loading pandas with the first list that it gets: half a second and 35 MB in every process.

Importing this module is all; it has to be imported before `pyarrow.dataset`. pyarrow looks for pandas again when
somebody wants a data frame of it.
"""

import sys
from typing import Any

import pyarrow as pa


class _NoPandas:
    """Among the finders of modules: there is none of that name."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raises ImportError for pandas."""
        if name == "pandas":
            raise ImportError(name)


sys.meta_path.insert(0, _NoPandas)
try:
    pa.array([0])
finally:
    sys.meta_path.remove(_NoPandas)

"""Mutants by cosmic-ray's operators; a process of its own, in an environment that has cosmic-ray and nothing of ours.

Reads `{"sources": {file: text}, "sample": n, "seed": s}`, writes `{"mutants": [{"file", "line", "operator",
"text"}, …]}` in one line.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

import cosmic_ray.plugins  # type: ignore[import-not-found]
from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore[import-not-found]
from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found]


def main() -> None:
    """A sample of all places, with one of the mutants of each."""
    order = json.loads(sys.stdin.read())
    sources: dict[str, str] = order["sources"]
    chance = random.Random(order["seed"])
    places: dict[tuple[str, int, int], list[tuple[str, int]]] = defaultdict(list)
    for file, source in sorted(sources.items()):
        for (line, column), operator, occurrence in _places(source):
            places[file, line, column].append((operator, occurrence))
    drawn: list[dict[str, object]] = []
    for file, line, column in chance.sample(list(places), len(places)):
        if len(drawn) == order["sample"]:
            break
        operator, occurrence = chance.choice(places[file, line, column])
        text = mutate_code(sources[file], cosmic_ray.plugins.get_operator(operator)(), occurrence)
        if text is not None and _behaviour(text) not in (None, _behaviour(sources[file])):
            drawn.append({"file": file, "line": line, "operator": operator.removeprefix("core/"), "text": text})
    print(json.dumps({"mutants": drawn}))


def _places(source: str) -> Iterator[tuple[tuple[int, int], str, int]]:
    """(line and column, operator, which of its occurrences)."""
    tree = get_ast(source)
    for name in sorted(cosmic_ray.plugins.operator_names()):
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue  # those that want to be told which variables
        positions = [start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            yield start, name, occurrence


def _behaviour(source: str) -> str | None:
    """A module without what no run depends on: a mutant of `str | None` in a signature is none. None: no Python."""
    with suppress(SyntaxError):  # of a bare `*` in a signature it makes `**`
        return ast.dump(_Bare().visit(ast.parse(source)))
    return None


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0]


class _Bare(ast.NodeTransformer):
    """Drops annotations, and what remembers the results of functions."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        node.decorator_list = [one for one in node.decorator_list if _called(one) not in ("cache", "lru_cache")]
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return node


main()

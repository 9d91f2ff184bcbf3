"""Mutants by cosmic-ray's operators; a process of its own, in an environment that has cosmic-ray and nothing of ours.

Reads `{"sources": {file: text}, "sample": n, "seed": s}`, writes `{"mutants": [{"file", "line", "operator",
"text"}, …]}` in one line.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

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
        try:
            text = mutate_code(sources[file], cosmic_ray.plugins.get_operator(operator)(), occurrence)
        except AttributeError:  # cosmic-ray stumbles over `except sqlite3.Error`
            continue
        if text is None or _UNSEEN.search(f"{sources[file].splitlines()[line - 1][:column]}¦{operator}"):
            continue
        if _behaviour(text) not in (None, _behaviour(sources[file])):
            drawn.append({"file": file, "line": line, "operator": operator.removeprefix("core/"), "text": text})
    print(json.dumps({"mutants": drawn}))


def _places(source: str) -> Iterator[tuple[tuple[int, int], str, int]]:
    """(line and column, operator, which of its occurrences)."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(cosmic_ray.plugins.operator_names()):
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue  # those that want to be told which variables
        made = kind()
        positions = [start for node in nodes for start, _ in made.mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            yield start, name, occurrence


# What only refuses a programmer's slip: without it, code that has none runs as before. `repr=False` is not among them:
# it keeps keys out of messages.
_UNSEEN = re.compile(r"\b(?:frozen|kw_only|slots|strict)=¦core/ReplaceTrueWithFalse$")
# Decorators for type checkers, those that refuse to make a class that nobody makes, and those that remember results.
_DECORATORS = ("abstractmethod", "cache", "lru_cache", "overload", "override", "runtime_checkable")


@cache
def _behaviour(source: str) -> str | None:
    """A module without what no run depends on: a mutant of `str | None` in a signature is none. None: no Python."""
    with suppress(SyntaxError):  # of a bare `*` in a signature it makes `**`
        return ast.dump(_Bare().visit(ast.parse(source)))
    return None


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0]


def _is_one_of_a_kind(node: ast.expr) -> bool:
    """None, or a member of an enum: `Mode.KEEP`. Who is equal to it is it, where types are what they say."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id[:1].isupper() and node.attr.isupper()
    return isinstance(node, ast.Constant) and node.value is None


def _is_never_negative(node: ast.expr) -> bool:
    """A length, or the rest of a division by a positive number."""
    if isinstance(node, ast.BinOp):
        by = node.right
        return isinstance(node.op, ast.Mod) and isinstance(by, ast.Constant) and isinstance(by.value, int)
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "len"


def _bits(node: ast.expr) -> int | None:
    """Which bits a number can have, as far as the text says."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _bits(node.right)
    return None


def _share_no_bit(one: ast.expr, other: ast.expr) -> bool:
    """Masks that have none in common, and flags of the system's."""
    bits = _bits(one), _bits(other)
    if bits[0] is not None and bits[1] is not None:
        return not bits[0] & bits[1]
    return all(part.startswith("os.O_") for node in (one, other) for part in re.split(r"[ |+^]+", ast.unparse(node)))


class _Bare(ast.NodeTransformer):
    """Drops annotations and decorators that change nothing, and writes comparisons that are equal in one way."""

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        self.generic_visit(node)
        if len(node.ops) == 1:
            (operator,), (other,) = node.ops, node.comparators
            if _is_one_of_a_kind(other):
                equal: dict[type[ast.cmpop], ast.cmpop] = {ast.Is: ast.Eq(), ast.IsNot: ast.NotEq()}
            elif _is_never_negative(node.left) and isinstance(other, ast.Constant) and other.value == 0:
                equal = {ast.LtE: ast.Eq(), ast.Gt: ast.NotEq()}
            else:
                return node
            node.ops = [equal.get(type(operator), operator)]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.BinOp:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.BitXor) and _share_no_bit(node.left, node.right):
            node.op = ast.BitOr()
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        """What may be given by place, and what by name, refuses a programmer's slip alone."""
        self.generic_visit(node)
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults += [default or ast.Constant(...) for default in node.kw_defaults]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        node.decorator_list = [one for one in node.decorator_list if _called(one) not in _DECORATORS]
        if all(isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in node.body):
            node.args.defaults, node.decorator_list = [], []  # a protocol's method, which never runs
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return node


main()

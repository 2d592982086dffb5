"""Small faults in the source of a module: one operator, constant, condition, result or statement is changed."""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

Change = tuple[ast.AST, ast.AST]  # the node as it is, and as it becomes

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
FUNCTIONS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
WITHOUT_EFFECT = {"annotation", "returns", "decorator_list"}  # fields whose change no test can see
WITHOUT_EFFECT_IN_CORRECT_CODE = {"strict"}  # arguments


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one fault.

    Attributes:
        line: Of the fault.
        before: The code at that place.
        after: The fault.
        source: The whole module with the fault.
    """

    line: int
    before: str
    after: str
    source: str


def mutants_of(source: str, most: int, seed: str) -> list[Mutant]:
    """Some of the mutants of a module, in the order of its lines.

    Args:
        source: The module.
        most: How many are drawn.
        seed: Decides which ones.
    """
    total = sum(1 for _ in _changes(ast.parse(source)))
    drawn = random.Random(seed).sample(range(total), min(most, total))  # noqa: S311 - not for cryptography
    return sorted((_mutant(source, number) for number in drawn), key=lambda mutant: mutant.line)


def _mutant(source: str, number: int) -> Mutant:
    tree = ast.parse(source)
    old, new = list(_changes(tree))[number]
    before, line = ast.unparse(old), getattr(old, "lineno", 0)
    changed = ast.fix_missing_locations(_Replaced(old, new).visit(tree))
    return Mutant(line, before, ast.unparse(new), ast.unparse(changed))


class _Replaced(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _changes(node: ast.AST) -> Iterator[Change]:
    """All changes in a tree, in the order of its nodes."""
    yield from _changes_of(node)
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if field not in WITHOUT_EFFECT and isinstance(child, ast.AST) and not _is_without_effect(child):
                yield from _changes(child)


def _is_without_effect(node: ast.AST) -> bool:
    """Whether code is there for readers and type checkers, or cannot matter where it is correct."""
    match node:
        case ast.Assert() | ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
        case ast.keyword(arg=name):
            return name in WITHOUT_EFFECT_IN_CORRECT_CODE
    return False


def _changes_of(node: ast.AST) -> Iterator[Change]:
    """The changes of one node itself, not of what is in it."""
    match node:
        case ast.expr():
            yield from ((node, new) for new in _other_expressions(node))
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call() | ast.NamedExpr() as test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield value, ast.Constant(None)
        case ast.Break():
            yield node, ast.Continue()
        case ast.Continue() | ast.Raise() | ast.AugAssign() | ast.Delete() | ast.Expr(value=ast.Call()):
            yield node, ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, operators, right):
            for i, operator in enumerate(operators):
                for other in COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*operators[:i], other(), *operators[i + 1 :]], right)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.IfExp(test, body, otherwise):
            yield ast.IfExp(test, otherwise, body)
        case ast.Call(function, arguments, keywords):
            yield from (ast.Call(other, arguments, keywords) for other in _other_functions(function))
        case ast.Constant(value):
            yield from map(ast.Constant, _other_values(value))


def _other_functions(function: ast.expr) -> Iterator[ast.expr]:
    match function:
        case ast.Name(name) if name in FUNCTIONS:
            yield ast.Name(FUNCTIONS[name])
        case ast.Attribute(value, name) if name in FUNCTIONS:
            yield ast.Attribute(value, FUNCTIONS[name])


def _other_values(value: object) -> Iterator[bool | int | float]:
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
        case float():
            yield 2 * value if value else 1.0

"""Putting a small change into a function's code.

A change is known by the function's qualified name, the statement or expression before and after, and a number among
those of the function that read the same: so it is found again when the function moves to another module.
"""

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    "One small change of a function."
    function: str # qualified name
    kind: str
    before: str # a statement, or the expression of a compound statement's first line, as `ast.unparse` writes it
    after: str
    index: int # among those in the function that read like `before`


def functions(tree, prefix=''):
    """(qualified name, node) of every function and method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if isinstance(node, ast.FunctionDef):
                yield prefix + node.name, node
            yield from functions(node, f'{prefix}{node.name}.')


def statements(body):
    """Every statement of a body, those in blocks too, but not those of inner functions."""
    for statement in body:
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement
            for part in ('body', 'orelse', 'finalbody', 'handlers', 'cases'):
                yield from statements(getattr(statement, part, []))


def heads(statement):
    """What of a statement a change may replace: the whole, or the expressions of a compound one's first line."""
    if isinstance(statement, ast.If | ast.While):
        return [statement.test]
    if isinstance(statement, ast.For):
        return [statement.iter]
    if isinstance(statement, ast.With):
        return [item.context_expr for item in statement.items]
    return [] if hasattr(statement, 'body') or hasattr(statement, 'cases') else [statement]


def defaults(function):
    """(name, default) of each parameter that has one."""
    positional = [*function.args.posonlyargs, *function.args.args]
    given = zip(positional[len(positional) - len(function.args.defaults):], function.args.defaults)
    return [(arg.arg, value) for arg, value in (*given, *zip(function.args.kwonlyargs, function.args.kw_defaults))
            if value]


def places(function):
    """(text, node) of all that a change may replace."""
    for name, value in defaults(function):
        yield f'{name}={ast.unparse(value)}', value
    for statement in statements(function.body):
        yield from ((ast.unparse(node), node) for node in heads(statement))
        if isinstance(statement, ast.If) and not statement.orelse:
            yield ast.unparse(statement), statement


def put_in(change, code):
    """The code with a change in it; None if the function is not in it, or no longer has what is to be changed."""
    for name, function in functions(ast.parse(code)):
        found = [node for text, node in places(function) if name == change.function and text == change.before]
        if len(found) > change.index:
            return replaced(code, found[change.index], new_text(change, found[change.index]))
    return None


def new_text(change, node):
    """What is written in a node's place."""
    after = change.after.partition('=')[2] if change.kind == 'default' else change.after
    return after if isinstance(node, ast.stmt) else f'({after})'


def replaced(code, node, text):
    """The code with a text in the place of a node; ast counts columns in bytes."""
    lines = code.encode().splitlines(keepends=True)
    start = sum(map(len, lines[:node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[:node.end_lineno - 1])) + node.end_col_offset
    return (code.encode()[:start] + text.encode() + code.encode()[end:]).decode()

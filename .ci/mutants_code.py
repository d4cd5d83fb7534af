"""Small changes of a function's code: which there are, and putting one in.

A change is known by the function's qualified name, the statement or expression before and after, and a number among
those of the function that read the same: so it is found again when the function moves to another module.
"""

import ast
import copy
from dataclasses import dataclass

FLIPPED = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.FloorDiv: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}
OPPOSITE = {'min': 'max', 'max': 'min', 'minimum': 'maximum', 'maximum': 'minimum', 'any': 'all', 'all': 'any',
            'argmin': 'argmax', 'argmax': 'argmin'}
FOR_PEOPLE = {'print', 'say', 'UserError', 'unknown', 'shown', 'warn'}  # what is called with a message
NOT_NUMBERS = ast.JoinedStr | ast.List | ast.Tuple | ast.Set | ast.Dict


@dataclass(frozen=True)
class Change:
    "One small change of a function."
    function: str # qualified name
    kind: str
    before: str # a statement, or the expression of a compound statement's first line, as `ast.unparse` writes it
    after: str
    index: int # among those in the function that read like `before`


class Replace(ast.NodeTransformer):
    "Puts one node in place of another."
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


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
    """(text, node, may be left out) of all that a change may replace."""
    for name, value in defaults(function):
        yield f'{name}={ast.unparse(value)}', value, False
    for statement in statements(function.body):
        for node in heads(statement):
            yield ast.unparse(node), node, statement is node and may_go(node)
        if isinstance(statement, ast.If) and not statement.orelse:
            yield ast.unparse(statement), statement, True


def may_go(statement):
    """Whether a statement can be left out so that the rest still has every name that it uses."""
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in statement.targets)
    called = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    return isinstance(statement, ast.AugAssign) or called and not for_people(statement.value)


def for_people(node):
    """Whether a node is text: a message, or a call that is given one."""
    named = isinstance(node, ast.Call) and getattr(node.func, 'id', getattr(node.func, 'attr', '')) in FOR_PEOPLE
    return named or isinstance(node, ast.JoinedStr | ast.Raise)


def of_types(call):
    """Whether a call's arguments cannot change places."""
    return isinstance(call.args[0], ast.Starred) or getattr(call.func, 'id', '') in ('isinstance', 'getattr', 'setattr')


def numbers(*nodes):
    """Whether nodes may be numbers or arrays: neither text nor a list that is written out."""
    return not any(isinstance(node, NOT_NUMBERS) or isinstance(node, ast.Constant) and isinstance(node.value, str)
                   for node in nodes)


def inside(node):
    """The node and all below it, but for messages and annotations."""
    if for_people(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name != 'annotation':
                yield from inside(child)


def constants(value):
    """The other values that a constant is given."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1] if value in (0, 1) else [value + 1]
    return [value + 1] if isinstance(value, float) else []


def variants(node):
    """(kind, node to put in its place) of every change of this node itself."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in FLIPPED[type(operator)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1:]]
                yield 'comparison', ast.Compare(node.left, ops, node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in FLIPPED and numbers(node.left, node.right):
        yield 'arithmetic', ast.BinOp(node.left, FLIPPED[type(node.op)][0](), node.right)
    if isinstance(node, ast.BoolOp):
        yield 'and/or', ast.BoolOp(FLIPPED[type(node.op)][0](), node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield 'not', node.operand
    if isinstance(node, ast.Constant):
        yield from (('constant', ast.Constant(value)) for value in constants(node.value))
    if isinstance(node, ast.Name | ast.Attribute):
        part = 'id' if isinstance(node, ast.Name) else 'attr'
        if getattr(node, part) in OPPOSITE:
            other = copy.copy(node)
            setattr(other, part, OPPOSITE[getattr(node, part)])
            yield 'swap', other
    if isinstance(node, ast.Call) and len(node.args) > 1 and not of_types(node):
        yield 'swap', ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def changed(root):
    """(kind, text) of every change below a root; the tree itself stays."""
    for number, node in enumerate(inside(root)):
        for choice, (kind, _) in enumerate(variants(node)):
            tree = copy.deepcopy(root)
            old = list(inside(tree))[number]
            new = list(variants(old))[choice][1]
            yield kind, ast.unparse(Replace(old, new).visit(tree))


def changes(name, function):
    """Every change of a function."""
    seen = {}
    for before, node, droppable in places(function):
        index = seen[before] = seen.get(before, -1) + 1
        if droppable:
            yield Change(name, 'dropped', before, 'pass', index)
        if not isinstance(node, ast.If):
            parameter, _, default = before.partition('=')
            is_default = any(node is value for _, value in defaults(function))
            for kind, after in changed(node):
                kind, after = ('default', f'{parameter}={after}') if is_default else (kind, after)
                if after != before:
                    yield Change(name, kind, before, after, index)


def put_in(change, code):
    """The code with a change in it; None if the function is not in it, or no longer has what is to be changed."""
    for name, function in functions(ast.parse(code)):
        found = [node for text, node, _ in places(function) if name == change.function and text == change.before]
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

"""Checks the rules of style that ruff does not know: python .ci/lint.py.

Prints every problem, and exits with 1 if there is one.
"""
import ast
import json
import re
import sys
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

REPO = Path(__file__).parents[1]
COLUMNS = 120
CELL_LINES = 60
SCREEN = 45  # lines of a function, with its parameters and docstring
MAY_FOLLOW_A_COLON = ast.Return | ast.Raise


def long_lines(text):
    """(line number, message) of each line that is too long.

    The row of a table and a single long word cannot be broken, and are left out.
    """
    for number, line in enumerate(text.splitlines(), 1):
        breakable = not line.startswith('|') and len(line.split()) > 1
        if len(line) > COLUMNS and breakable:
            yield number, f'{len(line)} columns, more than {COLUMNS}'


def bodies_on_the_line(code):
    """(line number, message) of each body on its statement's own line, unless it is one that may stand there."""
    lines = code.encode().splitlines()              # ast counts columns in bytes
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    for node in sorted(statements, key=lambda node: node.lineno):
        before = lines[node.lineno - 1][:node.col_offset]
        if before.rstrip().endswith(b':') and not isinstance(node, MAY_FOLLOW_A_COLON):
            yield node.lineno, 'after a colon, only return or raise: put the body on a line of its own'


def long_functions(code):
    """(line number, message) of each function that does not fit on one screen."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= SCREEN:
            yield node.lineno, f'{node.name} has more than {SCREEN} lines, which fit on one screen'


TEXT = {'read_text': 0, 'write_text': 1}  # method -> its arguments before `encoding`


def without_encoding(code):
    """Each call that opens a file as text and leaves the encoding to the locale, which differs between machines."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or any(word.arg in ('encoding', None) for word in node.keywords):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        mode = next((word.value for word in node.keywords if word.arg == 'mode'), None)
        places = node.args[not method:][:1] if mode is None else [mode]
        modes = [place.value for place in places if isinstance(place, ast.Constant) and isinstance(place.value, str)]
        text = not any('b' in mode for mode in modes) and (not method or modes or not node.args and not node.keywords)
        if method and len(node.args) <= TEXT.get(name, -1) or name == 'open' and text:
            yield node


def locale_problems(code):
    """(line number, message) of each such call."""
    for node in without_encoding(code):
        yield node.lineno, "encoding='utf-8' is missing: without it the locale decides"


def python_code(cell_source):
    """The cell with IPython's commands (`%magic`, `!command`) made Python."""
    return TransformerManager().transform_cell(cell_source)


# Notebooks

def source(cell):
    """A cell's text."""
    return ''.join(cell['source'])


def by_papermill(notebook):
    """Whether papermill runs the notebook; then a raw cell tells nbdev_test to leave it out."""
    return any(cell['cell_type'] == 'raw' and 'skip_exec: true' in source(cell) for cell in notebook['cells'])


def metadata_problems(notebook):
    """Messages about the kernel, and about the cell that papermill fills."""
    kernel = notebook['metadata'].get('kernelspec', {})
    if (kernel.get('name'), kernel.get('language')) != ('python3', 'python'):
        yield "the kernelspec needs the name 'python3' and the language 'python', or papermill refuses the notebook"
    tagged = sum('parameters' in cell['metadata'].get('tags', []) for cell in notebook['cells'])
    if tagged != by_papermill(notebook):
        yield f"{tagged} cells are tagged 'parameters': there must be {int(by_papermill(notebook))}"


def code_problems(code):
    """(line number, message) for a code cell."""
    size = len(code.splitlines())
    if size > CELL_LINES:
        yield 1, f'{size} lines, more than {CELL_LINES}: split the cell'
    yield from bodies_on_the_line(python_code(code))
    yield from locale_problems(python_code(code))


def cell_problems(cell):
    """(line number, message) for one cell; ruff has checked the columns of code."""
    if cell['cell_type'] == 'code':
        yield from code_problems(source(cell))
    if cell['cell_type'] == 'markdown':
        yield from long_lines(source(cell))


def notebook_problems(path):
    """(place, message) of everything wrong in a notebook; cells are counted from 1, as ruff does."""
    notebook = json.loads(path.read_text(encoding='utf-8'))
    yield from (('', message) for message in metadata_problems(notebook))
    for number, cell in enumerate(notebook['cells'], 1):
        yield from ((f'cell {number}:{line}', message) for line, message in cell_problems(cell))


# The order of the parts

def chapters():
    """Module -> its chapter, as `part/number_name.ipynb`, in the order of the parts and of the chapters in them."""
    named = ((path, re.search(r'#\| default_exp (\w+)', path.read_text(encoding='utf-8')))
             for path in sorted(REPO.glob('nbs/[0-9]*/[0-9]*.ipynb')))
    return {found[1]: str(path.relative_to(REPO / 'nbs')) for path, found in named if found}


def imported(tree):
    """(line, module) of every import from the library, those within functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split('.')[0] == 'binenc'):
            module = (node.module or 'binenc').removeprefix('binenc').lstrip('.')
            yield from ((node.lineno, module or alias.name) for alias in node.names)


def order_problems(module, code, order):
    """(line, message) for each import of a later chapter: a reader knows what came before."""
    places = list(order)
    for line, other in imported(ast.parse(code)):
        if other in order and places.index(other) > places.index(module):
            yield line, f'{order[module]} imports from {order[other]}, a later chapter'


# Everything

def defined(node):
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return set()
    targets = getattr(node, 'targets', None) or [node.target]
    return {part.id for target in targets for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def second_definitions(code):
    """(line, message) for names that a module defines twice: the second takes the place of the first unseen."""
    seen = set()
    for node in ast.parse(code).body:
        yield from ((node.lineno, f'{name} is defined above: choose another name') for name in seen & defined(node))
        seen.update(defined(node))


def library_problems():
    """(file, line, message) for long functions of the library, and for the order of its chapters."""
    order = chapters()
    for path in (path for path in sorted(REPO.glob('binenc/[!_]*.py')) if path.stem in order):
        code = path.read_text(encoding='utf-8')
        if not ast.get_docstring(ast.parse(code), clean=False).endswith('.'):
            yield path, 1, "the chapter's first quoted line must be a whole sentence: it describes the module"
        for line, message in (*long_functions(code), *second_definitions(code)):
            yield path, line, message
        yield from ((path, line, message) for line, message in order_problems(path.stem, code, order))


def script_problems():
    """(file, line, message) for Python files (ruff checks their columns), scripts and settings."""
    for path in sorted([*REPO.glob('*.py'), *REPO.glob('.ci/*.py'), *REPO.glob('tests/**/*.py')]):
        code = path.read_text(encoding='utf-8')
        yield from ((path, line, message) for line, message in (*bodies_on_the_line(code), *locale_problems(code)))
    others = ('Makefile', 'settings.ini', 'CITATION.cff', 'pyproject.toml', '.ci/run', '.ci/execute_notebooks')
    for path in [*(REPO / name for name in others), *sorted(REPO.glob('slurm/*'))]:
        yield from ((path, line, message) for line, message in long_lines(path.read_text(encoding='utf-8')))


def problems():
    """(file, place, message) of all that is wrong in the repository."""
    for path in sorted(REPO.glob('nbs/**/[!.]*.ipynb')):
        yield from ((path, place, message) for place, message in notebook_problems(path))
    yield from library_problems()
    yield from script_problems()


if __name__ == '__main__':
    found = list(problems())
    for path, place, message in found:
        print(f'{path.relative_to(REPO)}:{place}: {message}' if place else f'{path.relative_to(REPO)}: {message}')
    print(f'{len(found)} problems of style' if found else 'the style is as agreed')
    sys.exit(bool(found))

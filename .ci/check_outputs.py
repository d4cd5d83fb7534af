"""Checks that the chapters print what is committed: python .ci/check_outputs.py [--all] [notebook ...].

Executes, two at a time and without writing them, the chapters whose text, or the text of a module that they import,
has changed since their outputs were last compared; with --all, every chapter. Compares the text of every cell's
outputs; pictures are not compared. A cell whose output varies (a time, a path, a list of all measures) says so with
`#| varies` on its first line, and is skipped, as are cells that take minutes (`#| eval: false`). What agrees is noted
in .ci/outputs.json. Exits with 1 if outputs differ.
"""
import ast
import difflib
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

REPO = Path(__file__).parents[1]
NOTED = REPO / '.ci' / 'outputs.json'
PAGES = [REPO / 'nbs' / '5_findings' / f'{name}.ipynb' for name in ('ablation', 'edges')]
CHAPTERS = [*sorted(REPO.glob('nbs/*/[0-9][0-9]_*.ipynb')), *PAGES]
LINES_SHOWN = 12
LONG = '#| eval: false' # a cell that takes minutes, for a person to execute


def output_text(output):
    """The text of one output; that of a picture is only its size, and is left out."""
    data = output.get('data', {})
    if any(kind.startswith('image/') for kind in data):
        return ''
    return ''.join(output.get('text', data.get('text/markdown', data.get('text/plain', ''))))


def cell_text(cell):
    """All that a cell printed, in however many parts it came, and returned. Addresses of objects are left out."""
    printed = ''.join(output_text(output) for output in cell.outputs if output.output_type == 'stream')
    shown = [output_text(output) for output in cell.outputs if output.output_type != 'stream']
    text = '\n'.join(filter(None, [printed, *shown]))
    return re.sub(r'(<.*?) at 0x[0-9a-fA-F]+>', r'\1>', text)


def varies(cell):
    """Whether a cell is marked as one whose output is not the same every time."""
    return cell.source.startswith(('#| varies', LONG))


def executed(path):
    """The notebook, executed in its own folder but not written; one thread, so that sums are the same everywhere."""
    os.environ.update(OMP_NUM_THREADS='1', JUPYTER_PREFER_ENV_PATH='1')
    resources = {'metadata': {'path': str(path.parent)}}
    options = {'timeout': 900, 'iopub_timeout': 900, 'kernel_name': 'python3', 'extra_arguments': ['--log-level=ERROR']}
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.source.startswith(LONG):
            cell.source = ''
    return NotebookClient(notebook, resources=resources, **options).execute()


def short_diff(committed, now):
    """The lines that differ, the first few of them."""
    lines = difflib.unified_diff(committed.splitlines(), now.splitlines(), 'committed', 'now', lineterm='', n=0)
    lines = [f'    {line}' for line in lines]
    return '\n'.join(lines[:LINES_SHOWN] + ['    ...'] * (len(lines) > LINES_SHOWN))


def differences(committed, now):
    """One text for each code cell whose outputs differ; cells are counted from 1, as ruff does."""
    for number, (before, after) in enumerate(zip(committed.cells, now.cells), 1):
        if before.cell_type != 'code' or varies(before):
            continue
        if cell_text(before) != cell_text(after):
            yield f'cell {number}\n{short_diff(cell_text(before), cell_text(after))}'


def check(path):
    """The differences of one notebook; a cell that fails is one."""
    try:
        return list(differences(nbformat.read(path, 4), executed(path)))
    except CellExecutionError as error:
        return [f'fails\n{error}']


# What a chapter's outputs depend on

@cache
def closure(module):
    """The modules of the library that a module's text names, however indirectly, and itself."""
    seen, waiting = set(), [module]
    while waiting:
        path = REPO / 'binenc' / f'{waiting.pop()}.py'
        if path.stem not in seen and path.exists():
            seen.add(path.stem)
            waiting += named(path.read_text(encoding='utf-8'))
    return frozenset(seen)


def named(code):
    """The modules of the library that Python code imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'binenc'):
            module = (node.module or '').removeprefix('binenc').lstrip('.')
            yield from [module] if module else [alias.name for alias in node.names]


def state(path):
    """A digest of a notebook's committed text and outputs, and of every module that it uses."""
    cells = [(cell.source, cell_text(cell)) if cell.cell_type == 'code' else (cell.source,)
             for cell in nbformat.read(path, 4).cells]
    used = {name for name in re.findall(r'binenc\.(\w+)', json.dumps(cells))}
    modules = sorted({each for name in used for each in closure(name)})
    texts = [(REPO / 'binenc' / f'{name}.py').read_text(encoding='utf-8') for name in modules]
    plain = [re.sub(r'^# %% .*$', '', text, flags=re.M) for text in texts]  # where a cell lies is no matter
    return hashlib.sha256(json.dumps([cells, plain]).encode()).hexdigest()[:16]


def name_of(path):
    """How a notebook is called in the notes."""
    return path.resolve().relative_to(REPO / 'nbs').as_posix()


def main(paths, everything=False):
    """Prints every difference; returns how many there are."""
    noted = json.loads(NOTED.read_text(encoding='utf-8')) if NOTED.exists() else {}
    todo = [path for path in paths if everything or noted.get(name_of(path)) != state(path)]
    count = 0
    with ProcessPoolExecutor(2) as pool:
        for path, found in zip(todo, pool.map(check, todo)):
            count += len(found)
            for difference in found:
                print(f'{name_of(path)}: {difference}', flush=True)
            if not found:
                noted[name_of(path)] = state(path)
    NOTED.write_text(json.dumps(noted, indent=1, sort_keys=True) + '\n', encoding='utf-8')
    print(f'{len(todo)} of {len(paths)} chapters executed, {count} outputs differ')
    if count:
        print('run `make notebooks`, look at what changed, and commit it')
    return count


if __name__ == '__main__':
    words = [word for word in sys.argv[1:] if word != '--all']
    sys.exit(bool(main([Path(word) for word in words] or CHAPTERS, '--all' in sys.argv)))

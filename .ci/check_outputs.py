"""Checks that the chapters print what is committed: python .ci/check_outputs.py [notebook ...]. Exits with 1 if not.

Executes the chapters, two at a time, without writing them, and compares the text of every cell's outputs. Pictures are
not compared. A cell whose output varies (a time, a path, a list of all measures) says so with `#| varies` on its first
line, and is skipped.
"""
import difflib
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

REPO = Path(__file__).parents[1]
PAGES = [REPO / 'nbs' / '5_findings' / f'{name}.ipynb' for name in ('ablation', 'edges')]
CHAPTERS = [*sorted(REPO.glob('nbs/*/[0-9][0-9]_*.ipynb')), *PAGES]
LINES_SHOWN = 12


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
    return cell.source.startswith('#| varies')


def executed(path):
    """The notebook, executed in its own folder but not written; one thread, so that sums are the same everywhere."""
    os.environ.update(OMP_NUM_THREADS='1', JUPYTER_PREFER_ENV_PATH='1')
    resources = {'metadata': {'path': str(path.parent)}}
    options = {'timeout': 900, 'iopub_timeout': 900, 'kernel_name': 'python3', 'extra_arguments': ['--log-level=ERROR']}
    return NotebookClient(nbformat.read(path, 4), resources=resources, **options).execute()


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


def main(paths):
    """Prints every difference; returns how many there are."""
    count = 0
    with ProcessPoolExecutor(2) as pool:
        for path, found in zip(paths, pool.map(check, paths)):
            count += len(found)
            for difference in found:
                print(f'{path.name}: {difference}', flush=True)
    print(f'{len(paths)} chapters executed, {count} outputs differ')
    if count:
        print('run `make notebooks`, look at what changed, and commit it')
    return count


if __name__ == '__main__':
    sys.exit(bool(main([Path(word) for word in sys.argv[1:]] or CHAPTERS)))

"""Measures the house: python .ci/house.py. Prints, in a minute or so:

- chapters and statements (Python's grammar, docstrings left out) of each part, of tests, scripts and operations;
- the functions that stand on the stack, in the command and in the copy of it, when a sweep computes a gradient;
- how often a stored file is read while all figures of the demo are drawn.
"""
import ast
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

REPO = Path(__file__).parents[1]
OPERATIONS = ('errors', 'files', 'locks', 'store', 'execute', 'slurm', 'commands')  # modules that are no science


def statements(path):
    """Statements of a Python file, without docstrings and other lone constants."""
    nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    return sum(isinstance(node, ast.stmt) and not isinstance(getattr(node, 'value', None), ast.Constant)
               or isinstance(node, ast.Return | ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
               for node in nodes)


def parts():
    """Part -> its modules, in the order of the chapters."""
    from lint import chapters
    by_part = {}
    for module, chapter in chapters().items():
        by_part.setdefault(chapter.partition('/')[0], []).append(module)
    return by_part


def print_sizes():
    """Chapters and statements."""
    total = Counter()
    for part, modules in parts().items():
        size = sum(statements(REPO / 'binenc' / f'{module}.py') for module in modules)
        total += Counter(chapters=len(modules), statements=size)
        print(f'{part:<14}{len(modules):>4} chapters{size:>7} statements')
    print(f'{"all":<14}{total["chapters"]:>4} chapters{total["statements"]:>7} statements')
    print(f'operations ({", ".join(OPERATIONS)}): '
          f'{sum(statements(REPO / "binenc" / f"{name}.py") for name in OPERATIONS)} statements')
    for name in 'tests', '.ci':
        print(f'{name}: {sum(map(statements, (REPO / name).rglob("*.py")))} statements')


def frames():
    """The functions on the stack that are ours or a notebook's."""
    for frame in traceback.extract_stack()[:-2]:
        ours = '/binenc/' in frame.filename
        cell = frame.filename.startswith('<ipython') or 'ipykernel_' in frame.filename
        if ours or cell:
            yield f'{Path(frame.filename).name if ours else "the notebook"}: {frame.name}'


def print_chain(folder):
    """The functions between a command and a gradient."""
    import torch

    from binenc import execute
    from binenc.run import Run
    backward, call, chain = torch.Tensor.backward, execute.Apart.__init__, Path(folder, 'chain')

    def noted(*args, **options):
        if not chain.exists():
            chain.write_text('\n'.join(frames()), encoding='utf-8')
        return backward(*args, **options)

    def begun(self, *args):
        print('the command:', *frames(), sep='\n    ')
        call(self, *args)

    torch.Tensor.backward, execute.Apart.__init__ = noted, begun
    try:
        execute.Sweep([Run(epochs=1, deepfool_images=0)], folder)()
    finally:
        torch.Tensor.backward, execute.Apart.__init__ = backward, call
    print('its copy:', *chain.read_text(encoding='utf-8').splitlines(), sep='\n    ')


def print_reads(folder):
    """How often stored files are read for all figures of the demo."""
    shutil.copytree(REPO / 'results' / 'demo', Path(folder, 'demo'), ignore=shutil.ignore_patterns('runs'))
    log = os.open(Path(folder, 'log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event, args):
        if event == 'open' and str(args[0]).startswith(folder) and args[1] in ('r', 'rb', None):
            os.write(log, f'{args[0]}\n'.encode())

    sys.addaudithook(note)  # copies of this process have it too
    sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    from binenc.commands import draw
    draw(['demo'], [], Path(folder))
    sys.stdout = sys.__stdout__
    paths = Path(folder, 'log').read_text(encoding='utf-8').splitlines()
    kinds = ('.csv', '.gz', '.json', '.npz')
    reads = Counter(path for path in paths if Path(path).suffix in kinds and '/tables/' not in path)
    print(f'figures of the demo: {len(reads)} stored files, each read {json.dumps(sorted(set(reads.values())))} times')


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    print_sizes()
    with tempfile.TemporaryDirectory() as folder:
        print_chain(folder)
    with tempfile.TemporaryDirectory() as folder:
        print_reads(os.path.realpath(folder))

"""Measures the house: python .ci/house.py. Prints, in a minute or so:

- chapters and statements (Python's grammar, docstrings left out) of each part, of tests, scripts and operations;
- the functions that stand on the stack, in the command and in the copy of it, when a sweep computes a gradient;
- how often a stored file is read while all figures of the demo are drawn.

With --since COMMIT only where the statements of operations and tests come from: what existed there under its name,
in operations or elsewhere, and what is new.
"""
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

REPO = Path(__file__).parents[1]
OPERATIONS = ('errors', 'files', 'locks', 'store', 'execute', 'slurm', 'commands')  # modules that are no science
EARLIER = (*OPERATIONS, 'process', 'kernels', 'launch', 'live', '_warm', 'cluster', 'console', 'cli', 'scheduler',
           'status', 'submission')  # what these modules were made of


def statements(tree):
    """Statements in Python's grammar, without docstrings and other lone constants."""
    return sum(isinstance(node, ast.stmt) and not isinstance(getattr(node, 'value', None), ast.Constant)
               or isinstance(node, ast.Return | ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
               for node in ast.walk(tree))


def parsed(path):
    """A file's tree."""
    return ast.parse(path.read_text(encoding='utf-8'))


def size(paths):
    """Statements of several files."""
    return sum(statements(parsed(path)) for path in paths)


def modules(names, folder=REPO):
    """The files of modules that are there."""
    return [path for name in names if (path := folder / 'binenc' / f'{name}.py').exists()]


def functions(paths):
    """(name, statements) of each function and class of modules, and with the name '' of all else in them."""
    for node in (node for path in paths for node in parsed(path).body):
        yield (node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ''), statements(node)


def print_since(commit, folder):
    """Where the statements of operations and of tests come from."""
    archive = subprocess.run(['git', 'archive', commit, 'binenc', 'tests'], cwd=REPO, capture_output=True, check=True)
    subprocess.run(['tar', '-x', '-C', folder], input=archive.stdout, check=True)
    then = modules(EARLIER, folder)
    before = {name for name, _ in functions(then)} - {''}
    elsewhere = {name for name, _ in functions((folder / 'binenc').glob('*.py'))} - before - {''}
    origins = {'operations': before, 'elsewhere': elsewhere, 'imports and constants': {''}}
    found = Counter()
    for name, number in functions(modules(OPERATIONS)):
        found[next((origin for origin, names in origins.items() if name in names), 'new')] += number
    print(f'operations at {commit}: {size(then)} statements; now, by what has its name there: {dict(found)}')
    old, now = ({path.relative_to(place): path for path in (place / 'tests').rglob('*.py')} for place in (folder, REPO))
    kept, added = (size(now[name] for name in names) for names in (now.keys() & old, now.keys() - old))
    print(f'tests at {commit}: {size(old.values())} statements; now in files that it has: {kept}, in others: {added}')


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
    for part, names in parts().items():
        here = size(modules(names))
        total += Counter(chapters=len(names), statements=here)
        print(f'{part:<14}{len(names):>4} chapters{here:>7} statements')
    print(f'{"all":<14}{total["chapters"]:>4} chapters{total["statements"]:>7} statements')
    print(f'operations ({", ".join(OPERATIONS)}): {size(modules(OPERATIONS))} statements')
    for name in 'tests', '.ci':
        print(f'{name}: {size((REPO / name).rglob("*.py"))} statements')


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
    if sys.argv[1:2] == ['--since']:
        with tempfile.TemporaryDirectory() as folder:
            print_since(sys.argv[2], Path(folder))
        sys.exit()
    print_sizes()
    with tempfile.TemporaryDirectory() as folder:
        print_chain(folder)
    with tempfile.TemporaryDirectory() as folder:
        print_reads(os.path.realpath(folder))

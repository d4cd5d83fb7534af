"""The chapters on the layer and on its measures, run without the laboratory and without nbdev.

In an environment that has the core's requirements and what the chapters' pictures need (tests/core/*.txt), with the
lowest and with the newest torch:
    python -m pytest --noconftest tests/core tests/test_layer.py tests/test_attach.py ... # see `core` in the Makefile
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

REPO = Path(__file__).parents[2]
CHAPTERS = [path.stem for path in sorted((REPO / 'nbs').glob('[12]_*/[0-9]*.ipynb')) if path.stem != '10_streaming']
NOT_RUN = '#| eval: false', '#| slow', '#| notest'


def code_cells(path):
    """Their source, without those that nbdev's tests leave out."""
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    return [source for source in code if not source.startswith(NOT_RUN)]


@pytest.mark.parametrize('name', CHAPTERS)
def test_chapter(name, monkeypatch):
    """Each cell in turn, with its tests, in the notebook's folder."""
    [path] = (REPO / 'nbs').glob(f'*/{name}.ipynb')
    monkeypatch.chdir(path.parent)
    matplotlib.use('Agg')
    monkeypatch.setitem(sys.modules, '__chapter__', type(sys)('__chapter__'))  # where torch.fx.wrap looks for names
    names = sys.modules['__chapter__'].__dict__
    for number, source in enumerate(code_cells(path)):
        exec(compile(source, f'{path.name}, code cell {number}', 'exec'), names)


@pytest.mark.parametrize('module, beside', [('head', 'torch'), ('attaching', 'torch'), ('schedules', 'sys')])
def test_importing_the_layer_costs_nothing_beside_torch(module, beside):
    """No package is imported that torch does not import itself."""
    assert packages_after(f'import binenc.{module}') - packages_after(f'import {beside}') == {'binenc'}


def packages_after(code):
    """Top-level names in `sys.modules`, but for Python's own."""
    show = 'print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))'
    done = subprocess.run([sys.executable, '-c', f'import sys; {code}; {show}'], capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': str(REPO)}, check=True)
    return set(done.stdout.split())

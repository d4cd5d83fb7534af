"""What nbs/extend.ipynb shows, applied to a copy of the repository: each change is all that it takes."""
import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from helpers import BINENC, REPO, TINY, environment, settings, tracked

PAGE = json.loads((REPO / 'nbs' / 'extend.ipynb').read_text(encoding='utf-8'))
PART = re.compile(r'## An? (\w+(?: set)?)\n(.*)', re.S)
PARTS = dict(PART.match(text).groups() for text in (''.join(cell['source']) for cell in PAGE['cells'][1:]))
BLOCK = re.compile(r'```python\n# (nbs/\S+), (?:in (\w+)|a cell before (\w+)|a new cell)\n(.*?)```', re.S)


def blocks(kind):
    """(notebook, table to add to, table to stand before, code) of each block about one kind of extension."""
    return BLOCK.findall(PARTS[kind])


def source(cell):
    return ''.join(cell['source'])


def with_entry(text, name, entry):
    """A cell's code with an entry added at the end of its table."""
    lines = f'{text.rstrip()}\n'.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if re.match(rf'(class )?{name}\b( =|:|\()', line))
    end = next((i for i, line in enumerate(lines) if i > start and line.rstrip() in ('}', ')')), len(lines))
    return ''.join([*lines[:end], entry, *lines[end:]])


def apply(repo, notebook, table, before, code):
    """Make one change in a notebook."""
    path = repo / notebook
    content = json.loads(path.read_text(encoding='utf-8'))
    cells = content['cells']
    defined = re.compile(rf'^(class )?{table or before or "nothing"}\b( =|:|\()', re.M)
    at = next((i for i, cell in enumerate(cells) if cell['cell_type'] == 'code' and defined.search(source(cell))), None)
    if table:
        cells[at]['source'] = with_entry(source(cells[at]), table, code)
    else:
        new = {'cell_type': 'code', 'execution_count': None, 'id': 'added', 'metadata': {}, 'outputs': []}
        cells.insert(len(cells) if at is None else at, {**new, 'source': f'#| export\n{code}'})
    path.write_text(json.dumps(content), encoding='utf-8')


def run(repo, *words):
    """A command of the copy, ended well; returns what it printed."""
    done = subprocess.run(words, cwd=repo, env={**environment(), 'PYTHONPATH': f'{repo}:{repo / "tests"}'},
                          capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = '''
import json, sys, binenc.execute
from helpers import run_notebook_here
binenc.execute.execute_notebook = run_notebook_here # in this process: kernels take half a minute
from binenc.commands import main
for words in json.loads(sys.argv[1]):
    sys.argv = ['binenc', *words]
    try:
        main()
    except SystemExit as end:
        if end.code: raise
'''


IDS = sys.executable, '-m', 'binenc', 'plan', 'demo', '--ids'
VALUES = dict(TINY, model='bin_enc,bin_enc_exp', replicate='0,1', lr='1e-3', experiment='extended', dataset='noise',
              gamma_schedule='waiting', gamma_wait=2, gamma_factor=2.0)
SAID = [['sweep', 'demo', *settings(**VALUES)], ['figures', 'extended'], ['status'], ['data', 'noise'],
        ['plan', 'demo'], ['measure', 'demo', '--only', 'bit_imbalance', *settings(model='bin_enc'), '--jobs', '1'],
        ['figures', 'demo']]


@pytest.fixture(scope='module')
def repo(tmp_path_factory):
    """A copy of the repository, what git tracks or would track, with all extensions."""
    repo = tmp_path_factory.mktemp('extended') / 'repo'
    for name in tracked():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, repo / name)
    for block in [block for kind in PARTS for block in blocks(kind)]:
        apply(repo, *block)
    run(repo, BINENC.with_name('nbdev_export'))
    return repo


def test_what_each_extension_changes(repo):
    """A tiny experiment with a new arm, measure, data set, schedule and field of `Run` is trained, measured, drawn and
    tabled; stored runs get the measure from their weights; no preset, id or stored table changes."""
    before, ids = {path.name: path.read_bytes() for path in REPO.glob('results/demo/tables/*.csv')}, run(REPO, *IDS)
    said = run(repo, sys.executable, '-c', COMMANDS, json.dumps(SAID))
    for words in 'demo: 24 finished of 24', '3 of 3 runs to do', 'made on the fly', '24 runs = 4 models':
        assert words in said
    folder = repo / 'results' / 'extended'
    table = pd.read_csv(folder / 'tables' / 'table1_accuracy.csv')
    assert list(table.model.unique()) == ['BinEnc', 'BinEnc exp'] and (table.n == 2).all()
    assert table.experiment.unique() == ['Noise']
    assert {'figure2_histograms.png', 'figure5_accuracy.pdf'} <= {path.name for path in folder.glob('figures/*')}
    measures = pd.read_csv(folder / 'tables' / 'measures.csv').set_index(['metric', 'model'])
    assert (measures.n[['distance of peaks', 'bit imbalance']] == 2).all()
    runs, history = pd.read_csv(folder / 'runs.csv'), pd.read_csv(folder / 'history.csv.gz')
    assert runs.groupby('replicate').test_loss.nunique().eq(2).all() and (runs.gamma_wait == 2).all()
    of_one = history[history.id == runs.query("model == 'bin_enc' and replicate == 0").id.item()]
    assert of_one.train_gamma.tolist() == [0.01, 0.02]  # epochs 2 and 4
    assert run(repo, *IDS) == ids
    after = {path.name: path.read_bytes() for path in repo.glob('results/demo/tables/*.csv')}  # drawn again
    assert {name for name in before if after[name] != before[name]} == {'measures.csv'}
    added = pd.read_csv(repo / 'results/demo/tables/measures.csv').query("metric == 'bit imbalance' and n > 0")
    assert list(added.model) == ['BinEnc'] and added.n.item() == 3 and 0 <= added['mean'].item() <= 0.5


AUTHOR = '-c', 'user.name=tests', '-c', 'user.email=tests@localhost'
# what counts, lists or compares arms, measures, data sets, schedules or fields of `Run`
CAN_DIFFER = ('notebooks', 'stored_results', 'claims', 'library', 'kept', 'training')


@pytest.mark.skipif('BINENC_EXTENDED' not in os.environ, reason='minutes on two cores: "make extended" tries it')
def test_the_tests_pass_with_all_of_them(repo):
    """Nothing counts what there is: the tests that could pass with one more of each."""
    for script in 'parameters', 'readme': # the rest of `make prepare`
        run(repo, sys.executable, f'.ci/{script}.py')
    for words in ('init', '-q'), ('add', '-A'), (*AUTHOR, 'commit', '-qm', 'extended'): # tests ask git what is kept
        run(repo, 'git', *words)
    for part in '3_experiment', '4_training':
        run(repo, BINENC.with_name('nbdev_test'), '--path', f'nbs/{part}', '--n_workers', '2')
    run(repo, sys.executable, '-m', 'pytest', '-q', '-n', '2', *(f'tests/test_{name}.py' for name in CAN_DIFFER))

"""What nbs/extend.ipynb shows, applied to a copy of the repository: each change is all that it takes."""
import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from helpers import BINENC, REPO, TINY, environment, settings

PAGE = json.loads((REPO / 'nbs' / 'extend.ipynb').read_text(encoding='utf-8'))
PART = re.compile(r'## An? (\w+(?: set)?)\n(.*)', re.S)
PARTS = dict(PART.match(text).groups() for text in (''.join(cell['source']) for cell in PAGE['cells'][1:]))
BLOCK = re.compile(r'```python\n# (nbs/\S+), (?:in (\w+)|a cell before (\w+)|a new cell)\n(.*?)```', re.S)


def blocks(kind):
    """(notebook, table to add to, table to stand before, code) of each block about one kind of extension."""
    return BLOCK.findall(PARTS[kind])


def ends_table(line):
    """Whether a line closes a table."""
    return line.rstrip() in ('}', ')')


def source(cell):
    return ''.join(cell['source'])


def defines(cell, name):
    """Whether a cell defines a table or class of that name."""
    return cell['cell_type'] == 'code' and bool(re.search(rf'^(class )?{name}\b( =|:|\()', source(cell), re.M))


def with_entry(text, name, entry):
    """A cell's code with an entry added at the end of its table."""
    lines = f'{text}\n'.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if re.match(rf'(class )?{name}\b( =|:|\()', line))
    end = next((i for i, line in enumerate(lines) if i > start and ends_table(line)), len(lines))
    while not lines[end - 1].strip():
        end -= 1
    return ''.join([*lines[:end], entry, *lines[end:]])


def apply(repo, notebook, table, before, code):
    """Make one change in a notebook."""
    path = repo / notebook
    content = json.loads(path.read_text(encoding='utf-8'))
    cells = content['cells']
    at = next((i for i, cell in enumerate(cells) if (table or before) and defines(cell, table or before)), None)
    if table:
        cells[at]['source'] = with_entry(source(cells[at]), table, code)
    else:
        new = {'cell_type': 'code', 'execution_count': None, 'id': 'added', 'metadata': {}, 'outputs': []}
        cells.insert(len(cells) if at is None else at, {**new, 'source': f'#| export\n{code}'})
    path.write_text(json.dumps(content), encoding='utf-8')


@pytest.fixture
def repo(tmp_path):
    """A copy of the repository: what git tracks or would track."""
    listed = subprocess.run(
        ['git', '-C', REPO, 'ls-files', '--cached', '--others', '--exclude-standard'],
        capture_output=True, text=True, check=True).stdout.splitlines()
    for name in filter(lambda name: (REPO / name).is_file(), listed):
        (tmp_path / 'repo' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / 'repo' / name)
    return tmp_path / 'repo'


def run(repo, *words):
    """A command of the copy, ended well; returns what it printed."""
    done = subprocess.run(words, cwd=repo, env={**environment(), 'PYTHONPATH': f'{repo}:{repo / "tests"}'},
                          capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = '''
import json, sys, binenc.figures, binenc.execute
from helpers import run_notebook_here
binenc.execute.execute_notebook = run_notebook_here # in this process: kernels take half a minute
if sys.argv[2] == 'False':
    binenc.figures.save_figure = lambda *args: [] # most of the time that figures and tables take
from binenc.commands import main
for words in json.loads(sys.argv[1]):
    sys.argv = ['binenc', *words]
    try:
        main()
    except SystemExit as end:
        if end.code: raise
'''


def binenc(repo, *commands, pictures=False):
    """Commands, each a list of words, one after the other in one process with the library of the copy."""
    words = [[str(word) for word in command] for command in commands]
    return run(repo, sys.executable, '-c', COMMANDS, json.dumps(words), str(pictures))


def extended(repo, kind, *more, pictures=False, **values):
    """Apply an extension, export, sweep a tiny experiment with it, draw it, and execute `more` commands. Returns its
    folder and what the commands said."""
    for block in blocks(kind):
        apply(repo, *block)
    run(repo, BINENC.with_name('nbdev_export'))
    values = {**TINY, 'model': 'bin_enc,lin_pen', 'replicate': '0,1', 'lr': '1e-3', 'experiment': 'extended', **values}
    commands = ['sweep', 'demo', *settings(**values)], ['figures', 'extended'], ['status']
    said = binenc(repo, *commands, *more, pictures=pictures)
    assert 'demo: 24 finished of 24' in said
    return repo / 'results' / 'extended', said


def tables(repo):
    """The tables of the demo, to be compared byte by byte."""
    return {path.name: path.read_bytes() for path in (repo / 'results' / 'demo' / 'tables').glob('*.csv')}


def test_an_arm(repo):
    """It trains with its loss, is measured, drawn and tabled; no preset and no stored table changes."""
    folder, said = extended(repo, 'arm', ['plan', 'demo'], pictures=True, model='bin_enc,bin_enc_exp')
    assert {'figure2_histograms.png', 'figure5_accuracy.pdf'} <= {path.name for path in (folder / 'figures').iterdir()}
    table = pd.read_csv(folder / 'tables' / 'table1_accuracy.csv')
    assert list(table.model.unique()) == ['BinEnc', 'BinEnc exp'] and (table.n == 2).all()
    measures = pd.read_csv(folder / 'tables' / 'measures.csv').set_index(['metric', 'model'])
    assert list(measures.index.unique('model')) == ['BinEnc', 'BinEnc exp']
    assert measures.n['distance of peaks', 'BinEnc exp'] == measures.n['test accuracy', 'BinEnc exp'] == 2
    runs = pd.read_csv(folder / 'runs.csv').set_index(['model', 'replicate']).test_loss
    assert runs['bin_enc'][0] != runs['bin_enc_exp'][0]
    assert '24 runs = 4 models' in said


def test_a_measure(repo):
    """New runs have it, its table shows it, and stored runs get it from their weights."""
    measured = ['measure', 'demo', '--only', 'bit_imbalance', '--set', 'model=bin_enc', '--jobs', 1]
    folder, said = extended(repo, 'measure', measured, ['figures', 'demo'])
    assert '3 of 3 runs to do' in said
    table = pd.read_csv(folder / 'tables' / 'measures.csv').set_index(['metric', 'model'])
    assert table.n['bit imbalance', 'BinEnc'] == 2 and 0 <= table['mean']['bit imbalance', 'BinEnc'] <= 0.5
    table = pd.read_csv(repo / 'results' / 'demo' / 'tables' / 'measures.csv').set_index(['metric', 'model'])
    assert table.n['bit imbalance', 'BinEnc'] == 3


def test_a_data_set(repo):
    """It can be named, is found, and is trained on."""
    folder, said = extended(repo, 'data set', ['data', 'noise'], dataset='noise')
    assert pd.read_csv(folder / 'tables' / 'table1_accuracy.csv').experiment.unique() == ['Noise']
    assert 'made on the fly' in said


def test_a_schedule_and_a_field(repo):
    """Gamma follows it; every stored result keeps its id."""
    ids = run(repo, sys.executable, '-m', 'binenc', 'plan', 'demo', '--ids')
    values = dict(gamma_schedule='waiting', gamma_wait=2, gamma_factor=2.0)
    folder, _ = extended(repo, 'schedule', ['figures', 'demo'], **values)
    assert run(repo, sys.executable, '-m', 'binenc', 'plan', 'demo', '--ids') == ids
    runs, history = pd.read_csv(folder / 'runs.csv'), pd.read_csv(folder / 'history.csv.gz')
    of_one = history[history.id == runs.query("model == 'bin_enc' and replicate == 0").id.item()]
    assert of_one.train_gamma.tolist() == [0.01, 0.02] # epochs 2 and 4
    assert (runs.gamma_wait == 2).all()
    assert tables(REPO).items() <= tables(repo).items() # drawn again


AUTHOR = '-c', 'user.name=tests', '-c', 'user.email=tests@localhost'
# what counts, lists or compares arms, measures, data sets, schedules or fields of `Run`
CAN_DIFFER = ('ids', 'notebooks', 'stored_results', 'claims', 'library', 'kept', 'training')


@pytest.mark.skipif('BINENC_EXTENDED' not in os.environ, reason='minutes on two cores: "make extended" tries it')
def test_the_tests_pass_with_all_of_them(repo):
    """Nothing counts what there is: the tests that could pass with one more of each."""
    for block in [block for kind in PARTS for block in blocks(kind)]:
        apply(repo, *block)
    run(repo, BINENC.with_name('nbdev_export'))
    for script in 'parameters', 'readme': # the rest of `make prepare`
        run(repo, sys.executable, f'.ci/{script}.py')
    for words in ('init', '-q'), ('add', '-A'), (*AUTHOR, 'commit', '-qm', 'extended'): # tests ask git what is kept
        run(repo, 'git', *words)
    for part in '3_experiment', '4_training':
        run(repo, BINENC.with_name('nbdev_test'), '--path', f'nbs/{part}', '--n_workers', '2')
    run(repo, sys.executable, '-m', 'pytest', '-q', '-n', '2', *(f'tests/test_{name}.py' for name in CAN_DIFFER))

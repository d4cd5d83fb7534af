"""What must hold for the notebooks and the generated library, whoever edits them."""

import ast
import json
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import fields
from pathlib import Path

import papermill
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lint
from binenc.errors import UserError
from binenc.execute import execute_notebook
from binenc.run import Run
from helpers import REPO, environment, tracked
from lint import source

NOTEBOOKS = sorted(REPO.glob('nbs/**/[!.]*.ipynb'))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r'\d\d_', path.name)]
SETTINGS = ConfigParser()
SETTINGS.read(REPO / 'settings.ini')
DEV_REQUIREMENTS = SETTINGS['DEFAULT']['dev_requirements'].split()
DEVELOPMENT = {re.match(r'\w+', word)[0] for word in DEV_REQUIREMENTS}


def named(path):
    return str(path.relative_to(REPO))


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def code_cells(notebook):
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def tags(cell):
    return cell['metadata'].get('tags', [])


def test_notebooks_are_small_and_without_errors():
    """Below 1 MB, so that each is shown where the repository is browsed; no cell ended in an error."""
    for path in NOTEBOOKS:
        assert path.stat().st_size < 1_000_000, path
        outputs = [output for cell in code_cells(read(path)) for output in cell['outputs']]
        assert not [output for output in outputs if output['output_type'] == 'error'], path


def test_they_open_with_their_answer():
    """Below its title a notebook says in a sentence what it shows, or the next cell computes that sentence; what the
    text of any cell links to is there."""
    for path in NOTEBOOKS:
        first, second = [cell for cell in read(path)['cells'] if cell['cell_type'] != 'raw'][:2]
        claim = re.match(r'# .+\n\n> ((?:.+\n?)+)', source(first))
        assert claim and not claim[1].strip().endswith('?') or '**In short.**' in source(second), path
        text = '\n'.join(source(cell) for cell in read(path)['cells'] if cell['cell_type'] == 'markdown')
        places = path.parent, REPO if path.stem == 'index' else path.parent # README is made of the index
        links = re.findall(r'\]\((?!http)([^)#\s]+)\)', text)
        assert not [link for link in links if not any((place / link).exists() for place in places)], path


def test_papermill_reads_every_parameter():
    """Every assignment in the tagged cell; a second `=` on a line would hide one."""
    run_by_papermill = [path for path in NOTEBOOKS if lint.by_papermill(read(path))]
    assert len(run_by_papermill) >= 10
    for path in run_by_papermill:
        cell = next(cell for cell in code_cells(read(path)) if 'parameters' in tags(cell))
        statements = ast.parse(source(cell)).body
        targets = [node.target if isinstance(node, ast.AnnAssign) else node.targets[0] for node in statements]
        assert list(papermill.inspect_notebook(str(path))) == [target.id for target in targets], path


def test_parameters_of_train_are_the_fields_of_run():
    """Names, order and defaults; then where results and data are. A field that is not there yet works all the same,
    and `make prepare` adds it."""
    path = REPO / 'nbs' / '4_training' / 'train.ipynb'
    cell = next(cell for cell in code_cells(read(path)) if 'parameters' in tags(cell))
    values = {}
    exec(source(cell), values)
    found = [(name, values[name]) for name in papermill.inspect_notebook(str(path))]
    known = [(f.name, f.default) for f in fields(Run) if f.name in values]
    assert found[:-2] == known and len(known) >= 35
    assert [name for name, _ in found[-2:]] == ['results_dir', 'data_dir']


def test_unknown_parameter_is_refused(tmp_path):
    """papermill itself would warn and go on with the default."""
    with pytest.raises(UserError, match="train.ipynb has no parameter 'learning_rate': it has augment"):
        execute_notebook('4_training/train.ipynb', tmp_path / 'train.ipynb', {'learning_rate': 1.0})
    assert not list(tmp_path.iterdir())


# these are about files and commands
WITHOUT_PICTURE = {f'{name}.ipynb' for name in (
    '00_inputs', '01_errors', '02_measures', '01_files', '02_locks', '03_store', '02_slurm', '03_trial',
    '04_commands', '07_report', '09_frameworks')}


def test_chapters_are_committed_executed():
    """Each chapter exports a module and shows what it does, with a picture unless it is about commands."""
    assert len(CHAPTERS) >= 13
    for path in CHAPTERS:
        cells = code_cells(read(path))
        assert any(source(cell).startswith('#| default_exp ') for cell in cells), path
        outputs = [output for cell in cells for output in cell['outputs']]
        assert outputs or path.name in WITHOUT_PICTURE, f'{path} is not executed'
        pictures = ['image/png' in output.get('data', {}) for output in outputs]
        assert any(pictures) or path.name in WITHOUT_PICTURE, path


# each in two halves, so that these lines do not find themselves
HOSTS = ('index-', 'url'), ('extra-', 'index'), (r'https?://[^/\s"]+', '@'), (r'\bpypi', r'\.'), ('artif', 'actory')


def test_nothing_of_this_machine_is_committed():
    """No absolute path of the machine it was made on, and no address of a package registry or proxy."""
    texts = {'.py', '.ipynb', '.md', '.ini', '.toml', '.sh', '.sbatch', '.csv', '.json', '.txt', '.html', '.lock', ''}
    places = rf'(?:{"|".join(re.escape(str(p)) for p in (REPO, Path.home(), tempfile.gettempdir()))})/\w'
    hosts = '|'.join(''.join(halves) for halves in HOSTS)
    own = re.compile(f'{places}|{hosts}')
    found = {}
    for path in map(REPO.joinpath, tracked()):
        if path.suffix not in texts:
            continue
        # pictures in notebooks are base64, in which anything may be found
        text = re.sub(r'"image/png": "[^"]*"', '', path.read_text(encoding='utf-8'))
        if match := own.search(text):
            found[named(path)] = text[max(0, match.start() - 40) : match.end() + 40]
    assert not found


IS_TORCH_IMPORTED = '''
import sys, time
from binenc.commands import main
sys.argv[0] = 'binenc'
try:
    main()
except SystemExit:
    print({'torch', 'pandas'} & {*sys.modules} or time.process_time())
'''


@pytest.mark.parametrize('words', [('plan', 'demo', '--ids'), ('--help',), ('status', 'demo')], ids=' '.join)
def test_quick_commands(words, tmp_path):
    """Planning and reporting import neither torch nor pandas and answer in under a second of the processor.

    One time in three is enough, because others may be slow on a busy machine.
    """
    def seconds():
        command = [sys.executable, '-c', IS_TORCH_IMPORTED, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])

    assert any(seconds() < 1 for _ in range(3))


def imported(path):
    """Names of the packages that a module imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split('.')[0] for name in plain + parts}


OPTIONAL = {'torchmetrics', 'lightning', 'transformers', 'mlxtend'}  # asked for in one sentence where they are missing
LAYER = [path.stem.partition('_')[2] for path in REPO.glob('nbs/[12]_*/[0-9]*.ipynb')]


def test_library_imports_what_it_requires():
    """No tool for development; the layer and its measures need the core alone, the laboratory the extra `lab` too."""
    modules = {path.stem: imported(path) for path in REPO.glob('binenc/*.py')}
    assert not {name: packages & DEVELOPMENT for name, packages in modules.items() if packages & DEVELOPMENT}
    called = {'scikit-learn': 'sklearn'}
    core, lab = ({called.get(name, name) for name in re.findall(r'(?:^|\s)([\w-]+)', SETTINGS['DEFAULT'][key])}
                 for key in ('requirements', 'lab_requirements'))
    comes_with = {'PIL': 'torchvision', 'traitlets': 'ipykernel', 'IPython': 'ipykernel'}
    for name, packages in modules.items():
        others = {comes_with.get(package, package) for package in packages} - set(sys.stdlib_module_names) - {'binenc'}
        allowed = core | OPTIONAL if name in LAYER else core | lab | OPTIONAL
        assert others <= allowed, f'{name} imports {others - allowed}'


def test_the_lock_has_what_is_required():
    """After a change of requirements in settings.ini: make lock."""
    lock = dict(re.findall(r'^([\w.-]+)==([\w.+-]+)', (REPO / 'requirements.lock').read_text(encoding='utf-8'), re.M))
    named = [text for name, text in SETTINGS['DEFAULT'].items()
             if name.endswith('requirements') and name != 'streaming_requirements']  # in the lock of tests/frameworks
    required = [Requirement(word) for text in named for word in text.split()]
    assert len(required) > 20
    for package in required:
        assert package.specifier.contains(lock[canonicalize_name(package.name)]), package

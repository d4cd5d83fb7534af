"""What must hold for the notebooks and the generated library, whoever edits them."""
import ast
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import fields
from pathlib import Path

import papermill
import pytest

from binenc.errors import UserError
from binenc.experiment import Run
from binenc.launch import execute_notebook
from helpers import BINENC, REPO, environment

NOTEBOOKS = sorted(REPO.glob('nbs/**/[!.]*.ipynb'))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r'\d\d_', path.name)]
SETTINGS = ConfigParser()
SETTINGS.read(REPO / 'settings.ini')
DEVELOPMENT = {re.match(r'\w+', word)[0] for word in SETTINGS['DEFAULT']['dev_requirements'].split()} | {'execnb'}


def named(path): return str(path.relative_to(REPO))
def read(path): return json.loads(path.read_text())
def code_cells(notebook): return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
def source(cell): return ''.join(cell['source'])
def tags(cell): return cell['metadata'].get('tags', [])
def by_papermill(path): return any('skip_exec: true' in source(cell) for cell in read(path)['cells'] if cell['cell_type'] == 'raw')


each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=named)
each_chapter = pytest.mark.parametrize('path', CHAPTERS, ids=named)
each_papermill = pytest.mark.parametrize('path', list(filter(by_papermill, NOTEBOOKS)), ids=named)


def test_there_are_notebooks():
    """The lists that the tests below go through are not empty."""
    assert len(CHAPTERS) >= 13 and len(list(filter(by_papermill, NOTEBOOKS))) >= 10 and 'nbdev' in DEVELOPMENT


@each_notebook
def test_kernel_is_named(path):
    """papermill refuses a notebook whose kernel has no language."""
    kernel = read(path)['metadata']['kernelspec']
    assert kernel['name'] == 'python3' and kernel['language'] == 'python'


@each_notebook
def test_cells_are_short(path):
    """No cell is longer than a screen."""
    assert not [source(cell)[:60] for cell in code_cells(read(path)) if len(source(cell).splitlines()) >= 60]


@each_notebook
def test_notebook_is_small_and_without_errors(path):
    """Below 1 MB, so that it is shown where the repository is browsed; no cell ended in an error."""
    assert path.stat().st_size < 1_000_000
    assert not [source(cell)[:60] for cell in code_cells(read(path)) for output in cell['outputs'] if output['output_type'] == 'error']


@each_papermill
def test_one_cell_of_parameters(path):
    """Exactly one cell is tagged, and papermill reads every assignment in it."""
    cells = [cell for cell in code_cells(read(path)) if 'parameters' in tags(cell)]
    assert len(cells) == 1
    assigned = [node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id for node in ast.parse(source(cells[0])).body]
    assert list(papermill.inspect_notebook(str(path))) == assigned


def test_other_notebooks_have_no_parameters():
    """nbdev_test runs these in its own process; a tag there would promise what nothing fills."""
    assert not [named(path) for path in NOTEBOOKS if not by_papermill(path) for cell in code_cells(read(path)) if 'parameters' in tags(cell)]


def test_parameters_of_train_are_the_fields_of_run():
    """Names, order and defaults; then where results and data are."""
    cell = next(cell for cell in code_cells(read(REPO / 'nbs' / 'train.ipynb')) if 'parameters' in tags(cell))
    values = {}
    exec(source(cell), values)
    found = [(name, values[name]) for name in papermill.inspect_notebook(str(REPO / 'nbs' / 'train.ipynb'))]
    assert found[:-2] == [(f.name, f.default) for f in fields(Run)]
    assert [name for name, _ in found[-2:]] == ['results_dir', 'data_dir']


def test_unknown_parameter_is_refused(tmp_path):
    """papermill itself would warn and go on with the default."""
    with pytest.raises(UserError, match="train.ipynb has no parameter 'learning_rate': it has experiment"):
        execute_notebook('train.ipynb', tmp_path / 'train.ipynb', {'learning_rate': 1.})
    assert not list(tmp_path.iterdir())


WITHOUT_PICTURE = {'11_launch.ipynb', '12_slurm.ipynb', '13_cli.ipynb'} # these show what a command prints, and a diagram in Markdown


@each_chapter
def test_chapter_is_committed_executed(path):
    """Each chapter exports a module and shows what it does, with a picture unless it is about commands."""
    notebook = read(path)
    assert any(source(cell).startswith('#| default_exp ') for cell in code_cells(notebook))
    outputs = [output for cell in code_cells(notebook) for output in cell['outputs']]
    assert outputs, 'not executed'
    if path.name not in WITHOUT_PICTURE: assert any('image/png' in output.get('data', {}) for output in outputs), 'no picture'


def test_nothing_of_this_machine_is_committed(tracked):
    """No absolute path of the machine it was made on, and no address of a package registry or proxy."""
    texts = {'.py', '.ipynb', '.md', '.ini', '.toml', '.sh', '.sbatch', '.csv', '.json', '.txt', '.html', ''}
    places = rf'(?:{"|".join(re.escape(str(p)) for p in (REPO, Path.home(), tempfile.gettempdir()))})/\w'
    # each in two halves, so that this line does not find itself
    hosts = '|'.join(('index-' 'url', 'extra-' 'index', r'https?://[^/\s"]+' r'@', r'\bpypi' r'\.', 'artif' 'actory'))
    own = re.compile(f'{places}|{hosts}')
    found = {}
    for path in tracked:
        if path.suffix not in texts: continue
        # pictures in notebooks are base64, in which anything may be found
        text = re.sub(r'"image/png": "[^"]*"', '', path.read_text())
        if match := own.search(text): found[named(path)] = text[max(0, match.start() - 40):match.end() + 40]
    assert not found


@pytest.mark.parametrize('words', [('plan', 'cifar10'), ('plan', 'demo', '--ids'), ('--help',), ('status', 'demo')], ids=' '.join)
def test_quick_commands(words, tmp_path):
    """Planning and reporting import no torch and answer in under a second of the processor, the best of three: a busy machine slows this least."""
    code = 'import sys; sys.argv[0] = "binenc"\nfrom binenc.cli import main\ntry: main()\nexcept SystemExit: pass\nprint("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith('False\n')
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([BINENC, *words], cwd=tmp_path, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(seconds() for _ in range(3)) < 1


def imported(path):
    """Names of the packages that a module imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {alias.name.split('.')[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names} | {
        node.module.split('.')[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


def test_library_imports_what_it_requires():
    """No tool for development; every other package is the standard library's or in the requirements."""
    modules = {path.name: imported(path) for path in REPO.glob('binenc/*.py')}
    assert not {name: found for name, packages in modules.items() if (found := packages & (DEVELOPMENT | {'pytest', 'foolbox', 'nbdev', 'fastcore'}))}
    called = {'scikit-learn': 'sklearn'}
    required = {called.get(name, name) for name in re.findall(r'(?:^| )([\w-]+)', SETTINGS['DEFAULT']['requirements'])}
    comes_with = {'PIL': 'torchvision', 'traitlets': 'nbclient'}
    for name, packages in modules.items():
        others = {comes_with.get(package, package) for package in packages} - set(sys.stdlib_module_names) - {'binenc'}
        assert others <= required, f'{name} imports {others - required}'


def test_export_is_up_to_date(tmp_path):
    """The library is what its notebooks export."""
    nbdev_export = BINENC.with_name('nbdev_export')
    if not nbdev_export.exists(): pytest.skip('nbdev is not installed')
    for name in 'nbs', 'binenc': shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    for name in 'settings.ini', 'setup.py', 'pyproject.toml': shutil.copy(REPO / name, tmp_path)
    for module in tmp_path.glob('binenc/[!_]*.py'): module.unlink()
    subprocess.run([nbdev_export], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    for module in REPO.glob('binenc/*.py'): assert (tmp_path / 'binenc' / module.name).read_text() == module.read_text(), module.name

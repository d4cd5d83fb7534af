"""The package can be built, installed and used without the repository."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser

import papermill
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node

from helpers import REPO, environment


def python(*words, cwd, **env):
    """What a Python command printed."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment() | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A source distribution of what git tracks, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp('built')
    subprocess.run(['git', 'clone', '-q', REPO, folder / 'clone'], check=True)
    backend = 'from setuptools import build_meta; print(build_meta.build_{}({!r}))'
    sdist = python('-c', backend.format('sdist', str(folder)), cwd=folder / 'clone').split()[-1]
    with tarfile.open(folder / sdist) as archive:
        archive.extractall(folder, filter='data')
    source = folder / sdist.removesuffix('.tar.gz')
    wheel = python('-c', backend.format('wheel', str(folder)), cwd=source).split()[-1]
    return folder / wheel


def test_wheel_holds_notebooks_without_outputs(built):
    """What papermill runs and what a person explores with is in it, and small; chapters and benchmark are not."""
    with zipfile.ZipFile(built) as wheel:
        names = [name for name in wheel.namelist() if name.endswith('.ipynb')]
        cells = [cell for name in names for cell in json.loads(wheel.read(name))['cells']]
    paths = [*(REPO / 'nbs' / '4_training' / f'{name}.ipynb' for name in ('train', 'measure', 'attack')),
             REPO / 'nbs' / '5_findings' / 'report.ipynb', *REPO.glob('nbs/5_findings/figures/*.ipynb'),
             REPO / 'nbs' / 'explore.ipynb']
    assert sorted(names) == sorted(f'binenc/{path.relative_to(REPO)}' for path in paths)
    assert not [cell for cell in cells if cell.get('outputs')]
    assert built.stat().st_size < 1_500_000


def test_one_run_whoever_opens_the_notebooks(built, tmp_path, monkeypatch):
    """A run is trained by the command of the installed wheel, in a folder that is not the repository. The notebooks of
    the wheel find it there: each opened in its own folder, as JupyterLab does, and by plain papermill from the root."""
    site = tmp_path / 'site'
    python('-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, built, cwd=tmp_path)
    path = {'PYTHONPATH': str(site)}
    where = python('-c', 'import binenc; print(binenc.__file__)', cwd=tmp_path, **path)
    assert where.startswith(str(site))
    small = ['--set', 'epochs=2', '--set', 'log_every=1', '--set', 'deepfool_images=5']
    python('-m', 'binenc', 'sweep', 'demo', '--set', 'model=bin_enc', '--set', 'lr=1e-3', '--set', 'replicate=0',
           '--set', 'experiment=mine', '--jobs', '1', *small, cwd=tmp_path, **path)
    assert (tmp_path / 'results/mine/experiment.json').exists()
    assert 'finished' in python('-m', 'binenc', 'status', 'mine', cwd=tmp_path, **path)
    monkeypatch.setenv('PYTHONPATH', str(site))
    [folder] = (tmp_path / 'results/mine/runs').iterdir()
    fields = json.loads((folder / 'run.json').read_text(encoding='utf-8'))['run']
    trained = (folder / 'weights.safetensors').stat().st_mtime_ns
    for name, values in {'train': fields, 'measure': dict(experiment='mine'),
                         'attack': dict(experiment='mine', images=2)}.items():
        source = shutil.copytree(site / 'binenc/nbs', tmp_path / 'nbs', dirs_exist_ok=True) / f'4_training/{name}.ipynb'
        opened = papermill.parameterize.parameterize_notebook(load_notebook_node(str(source)), values)
        NotebookClient(opened, resources={'metadata': {'path': source.parent}}).execute()
        executed = papermill.execute_notebook(source, tmp_path / 'out.ipynb', values, cwd=tmp_path, progress_bar=False)
        assert numbers_printed(opened) == numbers_printed(executed) != []
    assert (folder / 'weights.safetensors').stat().st_mtime_ns == trained # once
    assert [path.parent for path in tmp_path.rglob('metrics.json')] == [folder]
    said = python('-m', 'binenc', 'attack', 'mine', '--images', '2', cwd=tmp_path, **path)
    assert 'runs to do' not in said # the notebook has done it
    python('-m', 'binenc', 'explore', 'mine', '--', '--version', cwd=tmp_path, **path) # JupyterLab's
    copy = (tmp_path / 'results/mine/notebooks/explore.ipynb').read_text(encoding='utf-8')
    assert f"results_dir = '{tmp_path / 'results'}'" in copy


def numbers_printed(notebook):
    """The lines of a notebook's output that are a name and a number."""
    texts = [output.text for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs
             if output.output_type == 'stream' and output.name == 'stdout']
    return re.findall(r'^(\w[\w ()]*?) +(\S+)$', ''.join(texts), re.M)


def test_wheel_needs_the_core_alone(built):
    """What `pip install binenc` brings, what an old torch is not replaced by, and what type checkers look for."""
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
        [metadata] = [name for name in names if name.endswith('.dist-info/METADATA')]
        metadata = Parser().parsestr(wheel.read(metadata).decode())
    required = metadata.get_all('Requires-Dist')
    needed = [line for line in required if 'extra ==' not in line]
    assert {re.match('[a-z-]+', line)[0] for line in needed} == {'torch', 'numpy', 'scipy', 'scikit-learn'}
    assert 'torch>=2.2.1' in needed
    assert {'papermill; extra == "lab"', 'torchmetrics; extra == "streaming"'} <= set(required)
    assert {'binenc/py.typed', 'binenc/player.js', 'binenc/report.html.j2'} <= set(names)
    assert metadata.get_all('Project-URL') == ['Paper, https://arxiv.org/abs/2310.08224']
    assert 'Typing :: Typed' in metadata.get_all('Classifier')


def test_names_at_the_top_are_lazy():
    """All of them are there and listed; `import binenc` imports nothing."""
    code = """
import sys
import binenc
assert 'torch' not in sys.modules and not [name for name in sys.modules if name.startswith('binenc.')]
from binenc import BinaryEncodingHead, GammaSchedule, attach, class_codes, compression_loss, keep_latents, latents
assert set(binenc.__all__) <= set(dir(binenc))
assert all(getattr(binenc, name).__name__ == name for name in binenc.__all__)
import binenc.attacks
from binenc import attacks
try:
    binenc.atach
except AttributeError as error:
    print(error)
"""
    assert python('-c', code, cwd=REPO) == "module 'binenc' has no attribute 'atach'\n"


@pytest.mark.parametrize('missing', ['typer', 'filelock'])
def test_command_without_the_laboratory(missing):
    """One sentence, and an exit code that is not zero."""
    code = f'import sys; sys.modules[{missing!r}] = None; from binenc.__main__ import main; main()'
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (f'binenc: {missing} is not installed, and the command needs the laboratory: '
                           'pip install "binenc[lab]"\n')

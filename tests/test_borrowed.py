"""A borrowed machine without a scheduler: what finished in the time is attacked, packed, and comes home whole."""

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from binenc.experiment import expand
from binenc.files import check_stored
from binenc.store import runs_with_weights, stored_experiment
from helpers import BINENC, FIGURES, REPO, TINY, environment, settings, wait_for

ONE = dict(experiment='lent', model='bin_enc', replicate='0,1', lr='1e-3', **TINY)
TWO_RATES = ONE | {'lr': '1e-3,2e-3'}  # of which one is selected for each replicate


def surroundings():
    """The environment of these tests, in which the script finds binenc."""
    return environment() | {'PATH': f'{BINENC.parent}:{environment()["PATH"]}'}


def run(*words, cwd):
    """A command; its exit status and what it said."""
    return subprocess.run([str(word) for word in words], cwd=cwd, env=surroundings(), capture_output=True, text=True)


def copied(folder):
    """What the script needs of the repository."""
    shutil.copytree(REPO / 'slurm', folder / 'slurm')
    return folder / 'slurm' / 'borrowed.sh'


def archive(path):
    """Small images of two classes, dark and bright, as a packed image folder."""
    noise = np.random.default_rng(0)
    with tarfile.open(path, 'w:xz') as packed:
        for split, name, i in product(('train', 'test'), ('bright', 'dark'), range(15)):
            file = io.BytesIO()
            pixels = noise.integers(0, 100, (8, 8)) + 100 * (name == 'bright')
            Image.fromarray(pixels.astype(np.uint8)).save(file, 'png')
            about = tarfile.TarInfo(f'{split}/{name}/{i}.png')
            about.size = file.tell()
            packed.addfile(about, io.BytesIO(file.getvalue()))
    return path


DATA = '--archive', 'mine.tar.xz', *settings(dataset='folder:datasets/mine', **TWO_RATES)
WORDS = 'demo', 5, 'out', *DATA, '--jobs', 2


@pytest.fixture(scope='module')
def lent(tmp_path_factory):
    """A folder in which the script has trained on packed images, attacked and packed."""
    folder = tmp_path_factory.mktemp('lent')
    archive(folder / 'mine.tar.xz')
    done = run(copied(folder / 'borrowed'), *WORDS, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def unpacked(folder, pack='lent', into='there'):
    """What is packed in a folder, unpacked beside it as a folder of results."""
    (folder / into).mkdir(exist_ok=True)
    subprocess.run(f'cat {folder}/out/{pack}.tar.gz.* | tar xz -C {folder}/{into}', shell=True, check=True)
    return folder / into


def test_from_training_to_the_table_at_home(lent):
    """Runs on packed images, attacked, packed in parts, merged elsewhere: with numbers, attacks, and weights of all
    where their pack came along, even if later."""
    parts = sorted((lent / 'out').iterdir())
    assert {part.name for part in parts} == {'lent.tar.gz.00', 'lent.weights.tar.gz.00'}
    assert all(part.stat().st_size <= 15_000_000 for part in parts)
    assert not check_stored(unpacked(lent) / 'lent')
    done = run(BINENC, 'merge', lent / 'there', cwd=lent)
    assert done.returncode == 0 and '4 runs added' in done.stdout, done.stdout + done.stderr
    runs = expand(stored_experiment('lent', lent / 'results'))
    assert len(runs_with_weights(runs, lent / 'results')) == 2  # small ones of the selected runs are with the tables
    unpacked(lent, 'lent.weights')
    done = run(BINENC, 'merge', lent / 'there', cwd=lent)
    assert done.returncode == 0 and '4 were here already' in done.stdout, done.stdout + done.stderr
    assert len(runs_with_weights(runs, lent / 'results')) == len(runs) == 4
    assert not check_stored(lent / 'results' / 'lent')
    table = pd.read_csv(lent / 'results' / 'lent' / 'runs.csv')
    assert table.finished.all() and pd.read_csv(lent / 'results' / 'lent' / 'attacks.csv.gz').id.nunique() == 2


def test_figures_are_drawn_there(lent):
    """The script executes each notebook of figures in a kernel, and keeps what it executed."""
    drawn = lent / 'borrowed' / 'results' / 'lent'
    notebooks = {path.name for path in (REPO / 'nbs' / '5_findings' / 'figures').glob('*.ipynb')}
    assert notebooks <= {path.name for path in (drawn / 'notebooks').iterdir()}
    for kind in 'pdf', 'png':
        assert {'attacks', *FIGURES} == {path.stem for path in (drawn / 'figures').glob(f'*.{kind}')}


def test_a_damaged_run_does_not_keep_the_others_there(lent, tmp_path):
    """The figures fail; whole runs are packed, and those that are sound are merged at home."""
    shutil.copytree(lent / 'borrowed', tmp_path / 'borrowed')
    shutil.copy(lent / 'mine.tar.xz', tmp_path)
    results = tmp_path / 'borrowed' / 'results' / 'lent'
    lost = results / 'runs' / pd.read_csv(results / 'selected.csv').id[0]
    for path in results.iterdir():  # as before the first figures: without tables
        if path.is_file() and path.name != 'experiment.json':
            path.unlink()
    (lost / 'history.csv').write_text('epoch,split,metric,value\n')
    done = run(tmp_path / 'borrowed' / 'slurm' / 'borrowed.sh', *WORDS, cwd=tmp_path)
    assert done.returncode == 1 and 'history.csv is damaged' in done.stderr, done.stdout + done.stderr
    shutil.rmtree(unpacked(tmp_path) / 'lent' / 'runs' / lost.name)
    done = run(BINENC, 'merge', tmp_path / 'there', cwd=tmp_path)
    assert done.returncode == 0 and '3 runs added' in done.stdout, done.stdout + done.stderr


def test_time_is_over(tmp_path):
    """The sweep is stopped in order, here while kernels still start, and the same command continues."""
    script = copied(tmp_path / 'borrowed')
    script.write_text(script.read_text().replace('"${minutes}m"', '"${minutes}s"'))
    words = 'demo', 4, 'out', *settings(**ONE | {'epochs': 100_000, 'gamma_factor': 1.0}), '--jobs', 1
    done = run(script, *words, cwd=tmp_path)
    assert '4 minutes are over: the same command continues' in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1 and 'no run has finished yet' in done.stderr
    assert not [*(tmp_path / 'out').glob('lent.tar.gz.*')] and 'Traceback' not in done.stdout + done.stderr


def interrupted(*words, cwd, once):
    """What a command says if it gets Ctrl-C once such a file is in its results."""
    command = subprocess.Popen([str(word) for word in words], cwd=cwd, env=surroundings(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    wait_for(lambda: [*cwd.glob(f'borrowed/results/lent/{once}')], seconds=120)
    os.killpg(command.pid, signal.SIGINT)
    said, _ = command.communicate(timeout=120)
    assert command.returncode and 'Traceback' not in said, said
    return said


def test_ctrl_c_and_on_with_another_machine(tmp_path):
    """The first Ctrl-C ends the training in order. The unfinished run is packed with its checkpoint;
    unpacked elsewhere, the same sweep ends it."""
    script = copied(tmp_path / 'borrowed')
    chosen = settings(**ONE | {'replicate': '0', 'epochs': 400, 'gamma_factor': 1.0})
    said = interrupted(script, 'demo', 5, 'out', *chosen, cwd=tmp_path, once='runs/*/checkpoint.pt')
    assert 'no run has finished yet' in said
    results = unpacked(tmp_path, 'lent.unfinished', into='results')
    (folder,) = (results / 'lent' / 'runs').iterdir()
    assert {'checkpoint.pt', 'train-1.ipynb'} <= {path.name for path in folder.iterdir()}
    done = run(BINENC, 'status', 'lent', cwd=tmp_path)
    assert re.search(r'interrupted +1\n.*epoch [1-9]', done.stdout), done.stdout + done.stderr
    done = run(BINENC, 'sweep', 'demo', *chosen, cwd=tmp_path)
    assert done.returncode == 0 and (folder / 'train-2.ipynb').exists(), done.stdout + done.stderr
    assert (folder / 'metrics.json').exists()


def unattacked(lent, folder):
    """The script in a copy of the lent machine, in `folder`, without the attacks."""
    shutil.copytree(lent / 'borrowed', folder / 'borrowed')
    shutil.copy(lent / 'mine.tar.xz', folder)
    results = folder / 'borrowed' / 'results' / 'lent'
    for path in (*results.glob('attacks.csv*'), *results.glob('runs/*/attacks.csv*')):
        path.unlink()
    return folder / 'borrowed' / 'slurm' / 'borrowed.sh'


def test_time_of_the_attacks_is_over(lent, tmp_path):
    """They are stopped as the training is, and what is trained is packed."""
    script = unattacked(lent, tmp_path)
    script.write_text(script.read_text().replace('in_time binenc attack', 'minutes=0.02 in_time binenc attack'))
    done = run(script, *WORDS, cwd=tmp_path)
    assert done.returncode == 0 and '0.02 minutes are over' in done.stdout, done.stdout + done.stderr
    assert not [*unpacked(tmp_path).glob('lent/attacks.csv*')]
    assert len(pd.read_csv(tmp_path / 'there' / 'lent' / 'runs.csv')) == 4


def test_stopped_attacks_go_on_with_another_machine(lent, tmp_path):
    """The run whose attacks are stopped is packed with those that were made; the one before it is complete."""
    script = unattacked(lent, tmp_path)
    interrupted(script, *WORDS[:-1], 1, cwd=tmp_path, once='runs/*-r1-*/attacks.csv')
    assert pd.read_csv(unpacked(tmp_path) / 'lent' / 'attacks.csv.gz').id.nunique() == 1
    (folder,) = (unpacked(tmp_path, 'lent.unfinished', into='results') / 'lent' / 'runs').iterdir()
    before = pd.read_csv(folder / 'attacks.csv')
    (tmp_path / 'borrowed' / 'datasets').rename(tmp_path / 'datasets')
    done = run(BINENC, 'attack', 'lent', '--set', 'replicate=0,1', cwd=tmp_path)
    after = pd.read_csv(tmp_path / 'results' / 'lent' / 'attacks.csv.gz')
    assert done.returncode == 0 and set(after.id) == {folder.name}, done.stdout + done.stderr
    assert 0 < len(before) < len(after)
    pd.testing.assert_frame_equal(after[:len(before)][before.columns], before)


def test_how_to_use_it(tmp_path):
    """Without a number of minutes it says what it wants."""
    done = run(copied(tmp_path / 'borrowed'), 'demo', 'soon', 'out', cwd=tmp_path)
    assert done.returncode == 2 and 'slurm/borrowed.sh EXPERIMENT MINUTES FOLDER' in done.stderr

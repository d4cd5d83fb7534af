"""Somebody's own images and own code: odd names, images that change, results that move, entries made at run time."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import binenc
from binenc import commands, figures
from binenc.arms import ARMS
from binenc.data import load_data, stratified
from binenc.datasets import dataset_info, decode_all
from binenc.errors import UserError
from binenc.evaluation import Predictions, split_numbers
from binenc.experiment import parse_settings
from binenc.gallery import wall
from binenc.measures import MEASURES, Measure
from binenc.restored import load_run
from binenc.results import merge
from binenc.run import Run
from binenc.store import run_folder, stored_experiment
from binenc.tables import markdown_table
from binenc.training import train
from helpers import TINY, run_notebook_here, settings


def image_folder(folder, classes=('a', 'b', 'c'), each=8):
    """Images of 8x8 in train/ and test/, darker and brighter by class."""
    noise = np.random.default_rng(0)
    for split in 'train', 'test':
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = noise.integers(0, 100, (8, 8)) + 50 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f'{i}.png')
    return folder


def test_images_that_changed(tmp_path):
    """Nothing is measured on, or trained further with, other classes or another number of images than before."""
    folder = image_folder(tmp_path / 'mine')
    run = Run(dataset=f'folder:{folder}', **TINY)
    train(run, tmp_path / 'results')
    assert load_run(run, tmp_path / 'results').classes == ('a', 'b', 'c')
    for split in 'train', 'test':
        (folder / split / 'a').rename(folder / split / 'z')
    with pytest.raises(UserError, match='was computed from 24 train and 24 test images of the classes a, b, c, but'):
        load_run(run, tmp_path / 'results')
    (run_folder(run, tmp_path / 'results') / 'metrics.json').unlink()
    with pytest.raises(UserError, match='restore the images, or use another experiment'):
        train(run, tmp_path / 'results')


def test_results_under_another_name(finished, tmp_path):
    """A renamed folder is the experiment of its name, and is merged whole."""
    shutil.copytree(finished / 'results' / 'tiny', tmp_path / 'there' / 'renamed')
    assert stored_experiment('renamed', tmp_path / 'there').name == 'renamed'
    assert merge(tmp_path / 'there', tmp_path / 'results') == {'renamed': (8, 0)}
    assert not (tmp_path / 'results' / 'tiny').exists()


def test_a_measurement_that_fails(command, copy, monkeypatch):
    """Measured before or not: the command fails, and does not say that nothing differs."""
    monkeypatch.setattr('binenc.execute.execute_notebook', run_notebook_here)
    words = 'measure', 'tiny', '--only', 'accuracy', '--again', *settings(model='bin_enc', replicate=0), '--jobs', 1
    assert command(*words, cwd=copy).returncode == 0
    for weights in copy.glob('results/tiny/runs/bin_enc-*-r0-*/weights.safetensors'):
        weights.write_bytes(weights.read_bytes()[:-8])
    done = command(*words, cwd=copy)
    assert done.returncode == 1 and 'is damaged' in done.stdout and 'largest relative' not in done.stdout


def test_the_commit_of_somebody_elses_repository(tmp_path):
    """An environment in a project of the user: its commit is not that of this library."""
    shutil.copytree(Path(binenc.__file__).parent, tmp_path / '.venv' / 'binenc')
    (tmp_path / '.gitignore').write_text('.venv\n', encoding='utf-8')
    git = 'git -c user.name=me -c user.email=me@here'
    subprocess.run(f'git init -q && git add -A && {git} commit -qm mine', shell=True, cwd=tmp_path, check=True)
    code = 'import json, binenc.files as f; print(json.dumps([f.__file__, f.provenance("cpu")]))'
    done = subprocess.run([sys.executable, '-c', code], env={'PYTHONPATH': str(tmp_path / '.venv')}, cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    place, about = json.loads(done.stdout)
    assert place.startswith(str(tmp_path)) and about['commit'] is about['dirty'] is None


def test_names_with_marks(monkeypatch):
    """Dollars are no formula in figures, and a class called `<b>` is no HTML in tables."""
    names = ['$x$ and $y^$', 'a|b <b>', 'plain']
    picture = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    wall(picture, names).canvas.draw()
    table = pd.DataFrame({'class': names, 'bit 1': 0, 'bit 2': 1, 'share': 1.})
    fig, ax = plt.subplots()
    figures._draw_bits(ax, table, 'blue')
    fig.canvas.draw()
    plt.close(fig)
    assert r'| a\|b \<b> |' in markdown_table(table)


def test_files_that_would_be_left_out(tmp_path):
    """A link to nothing and a file of many frames are named, not skipped; so is a folder too large for the memory."""
    folder = image_folder(tmp_path / 'mine')
    for split in 'train', 'test':
        (folder / split / 'gone').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='gone is a broken link'):
        load_data(f'folder:{folder}', tmp_path, 'train')
    for split in 'train', 'test':
        (folder / split / 'gone').unlink()
    frames = [Image.new('L', (8, 8), 10 * i) for i in range(6)]
    frames[0].save(folder / 'train' / 'a' / 'many.tif', save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match='many.tif cannot be read.*6 frames'):
        load_data(f'folder:{folder}', tmp_path, 'train')
    Image.new('L', (8, 8)).save(folder / 'train' / 'a' / 'many.jfif', 'jpeg')
    (folder / 'train' / 'a' / 'many.tif').unlink()
    assert len(dataset_info(f'folder:{folder}').load(tmp_path, 'train').labels) == 25


def test_a_photograph_with_a_preview(tmp_path):
    """Telephones keep a second picture in the file: the first one is meant, as every viewer shows it."""
    bright, dark = Image.new('L', (8, 8), 200), Image.new('L', (4, 4), 10)
    bright.save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=[dark])
    assert Image.open(tmp_path / 'a.jpg').n_frames == 2 and (decode_all([tmp_path / 'a.jpg']) > 190).all()


def test_no_room_for_the_images(tmp_path, monkeypatch):
    """One sentence with the numbers."""
    Image.new('L', (8, 8)).save(tmp_path / 'a.png')
    monkeypatch.setattr(np, 'empty', lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match='3 images of 8x8 need 0 GiB of memory'):
        decode_all([tmp_path / 'a.png'] * 3)


def test_a_class_with_one_image():
    """It cannot be in both parts; the message names it."""
    labels = torch.tensor([0] * 20 + [1] * 20 + [2])
    for names, said in (None, 'class number 2 has one image'), ('abc', 'class c has one image'):
        with pytest.raises(UserError, match=said):
            stratified(labels, 8, 0, 'val_fraction=0.2', names)


def test_notes_of_runs_are_shown_once(monkeypatch):
    """That a layer has too few vertices concerns the reader of a sweep, once."""
    text = io.StringIO()
    monkeypatch.setattr(commands.out, '_file', text)
    with commands.Bar('mine', 2) as bar:
        for replicate in 0, 1:
            bar.progress(Run(replicate=replicate), {'notes': ['1 nodes have 2 vertices, fewer than the 3 classes']})
    assert text.getvalue().count('fewer than the 3 classes') == 1


def test_entries_made_at_run_time(monkeypatch):
    """What is not in the notebooks is known all the same: an arm, and a measure, which is taken and not only listed."""
    monkeypatch.setitem(ARMS, 'mine', replace(ARMS['bin_enc'], label='Mine'))
    assert Run(model='mine').model == 'mine'
    monkeypatch.setitem(MEASURES, 'mine', Measure('mine', 'evaluation:accuracy', 'predictions', 'mine', 'test'))
    z, y = torch.randn(40, 4), torch.arange(40) % 4
    assert 'mine' in split_numbers(Predictions(z, z, y), ARMS['mine'])


@pytest.mark.parametrize('text, said', [
    ('lr=1e-3,', 'lr=1e-3, lacks a value: write lr=VALUE,VALUE'), ('gamma_max=', 'gamma_max= lacks a value'),
    ('replicate=0-4', 'several: 0,1,2'), ('replicate=5000000000', 'from 0 to 4294967295'),
])
def test_settings_typed_wrongly(text, said):
    """The message says how it is meant."""
    with pytest.raises(UserError) as error:
        parse_settings([text])
    assert said in str(error.value)


def test_a_plan_in_a_new_folder(command, finished, tmp_path, monkeypatch):
    """As the report's checklist says, to repeat an experiment that is no preset; `~` is the home folder everywhere."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'elsewhere' / 'tiny').mkdir(parents=True)
    shutil.copy(finished / 'results' / 'tiny' / 'experiment.json', tmp_path / 'elsewhere' / 'tiny')
    assert 'tiny: 8 runs' in command('status', 'tiny', '--results=~/elsewhere', cwd=tmp_path).stdout

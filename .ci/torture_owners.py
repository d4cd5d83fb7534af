"""Whose run is it? Two commands and more on one run, where one cannot be looked up, sleeps, or is dead.

A trial ends well if one process computed at a time, whoever was dead was replaced in time, and every file is the one of
an undisturbed run, to the bit.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torture_kills
import torture_tools as tools

TIMES = {'SILENT': 2.0, 'BEAT': 0.2, 'WATCH': 0.8}  # seconds, instead of minutes
SOON = 60  # seconds in which a dead owner is replaced by a command that may replace it
DAYS = 3 * 24 * 3600
NEWNS, NEWPID = 0x20000, 0x20000000


# Where a command may run: each is called in its process before it begins

def here():
    """In the same namespace."""


def unshare():
    """Whether this process may go to another process namespace; its next child does."""
    return ctypes.CDLL(None).unshare(NEWPID | NEWNS) == 0


def namespace(proc=True):
    """Process 1 of a namespace, with its own /proc or with ours; this process waits for it."""
    unshare()
    if pid := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
    subprocess.run(['mount', '--make-rprivate', '/'], check=True)
    if proc:
        subprocess.run(['mount', '-t', 'proc', 'proc', '/proc'], check=True)


def another(name):
    """Under another host name, or as after another start of the machine."""
    from binenc import locks
    if name == 'host':
        socket.gethostname = lambda: 'another'
    else:
        locks._boot = lambda: 'another'


def patient(place):
    """As there, but for one to whom no time is long enough."""
    from binenc import locks
    place()
    locks.SILENT = DAYS


def clock(seconds):
    """A clock that is ahead or behind."""
    from binenc import locks

    class Clock:
        sleep, monotonic, time = time.sleep, time.monotonic, staticmethod(lambda: time.time() + seconds)
    locks.time = Clock


def job(user):
    """In a user's job on a node of another cluster."""
    from binenc import locks
    another('host')
    mine = locks.this_process
    locks.this_process = lambda: mine() | {'cluster': 'far', 'job': '77', 'restart': None, 'user': user}


SQUEUE = {
    'does not know it': 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1',
    'shows nothing': 'echo "please read the news"',
    'shows that it has ended': 'echo "please read the news"; echo "77 COMPLETED"',
}


def asking(folder, answer):
    """Where squeue answers so."""
    folder.mkdir(exist_ok=True)
    squeue = folder / 'squeue'
    squeue.write_text(f'#!/bin/sh\n{SQUEUE[answer]}\n', encoding='utf-8')
    squeue.chmod(0o755)
    os.environ['PATH'] = f'{folder}:{os.environ["PATH"]}'


def hold_epochs(log, gate):
    """Note each epoch; after the second, wait for the gate if there is one."""
    import binenc.training as training
    torture_kills.log_epochs(log)
    epoch = training.train_epoch

    def held(state, *others):
        epoch(state, *others)
        while gate and state.epoch == 2 and not gate.exists():
            time.sleep(0.02)
    training.train_epoch = held


class Trial:
    """Commands on one run, and what is found."""

    def __init__(self, parent):
        self.folder, self.findings, self.pids, self.links = tools.new_folder(parent), [], {}, []
        self.epochs_allowed, self.log = tools.TINY['epochs'], Path(f'{self.folder}.epochs')

    def start(self, place=here, gate=None):
        """A command on the run; returns a link to its folder, which names its output."""
        link = self.folder.with_name(f'{self.folder.name}-{len(self.links)}')
        link.symlink_to(self.folder)
        self.links.append(link)

        def before():
            from binenc import locks
            for name, seconds in TIMES.items():
                setattr(locks, name, seconds)
            place()
            hold_epochs(self.log, gate and self.gate(gate))
        self.pids[link] = tools.fork(lambda: tools.command(*torture_kills.SCENES['train'][1]), link, before)
        return link

    def gate(self, name):
        return self.folder.with_name(f'{self.folder.name}.{name}')

    def owner(self, place=here, gate='gate', epochs=2):
        """A command that waits at a gate when so many epochs were trained."""
        link, end = self.start(place, gate), time.monotonic() + tools.SECONDS
        while self.epochs() < epochs:
            if time.monotonic() > end: raise SystemExit(f'a trial hangs: {Path(f"{link}.errors").read_bytes()!r}')
            time.sleep(0.02)
        return link

    def epochs(self):
        return len(self.log.read_text(encoding='utf-8').splitlines()) if self.log.exists() else 0

    def lock(self):
        return next(self.folder.glob('results/small/runs/*/lock'))

    def ended(self, link):
        done = tools.ended(self.pids.pop(link), link)
        self.findings += tools.complaints(done)
        return done

    def expect(self, link, fine, words):
        done = self.ended(link)
        if (done.code == 0) != fine or words not in done.said:
            self.findings.append(('lost', f'exit {done.code}, without {words!r}: {done.said[-400:]}'))

    def refused(self, place=here):
        self.expect(self.start(place), False, 'is being computed by process')

    def takes_over(self, place=here, words='finished'):
        begun = time.monotonic()
        self.expect(self.start(place), True, words)
        if time.monotonic() - begun > SOON:
            self.findings.append(('lost', f'it took {time.monotonic() - begun:.0f} s'))

    def signal(self, link, number):
        """A signal to a command and its copies."""
        found = [self.pids[link]]
        for pid in found:
            for children in Path(f'/proc/{pid}/task').glob('*/children'):
                found += map(int, children.read_text(encoding='utf-8').split())
        for pid in found:
            os.kill(pid, number)

    def kill(self, link):
        self.signal(link, signal.SIGKILL)
        self.ended(link)
        self.epochs_allowed += 1  # the epoch that had no checkpoint yet

    def end(self, twin):
        """Findings, once all is over."""
        self.findings += tools.compare(twin, tools.contents(self.folder))
        twice = self.epochs() > self.epochs_allowed
        self.findings += [('computed twice', f'{self.epochs()} epochs were trained')] * twice
        for path in *self.links, *(self.gate(name) for name in ('gate', 'second')):
            path.unlink(missing_ok=True)
            tools.remove(path)
        tools.remove(self.folder)
        return self.findings


def wait_silent():
    """So long that an owner without a sign of life may be replaced."""
    time.sleep(TIMES['SILENT'] + 2 * TIMES['BEAT'])


def lives(trial, owner_at=here, other_at=here):
    """A living owner keeps its run, for however long it computes."""
    owner = trial.owner(owner_at)
    wait_silent()
    trial.refused(other_at)
    trial.gate('gate').touch()
    trial.expect(owner, True, 'finished')


def dies_known(trial, owner_at=here, other_at=here):
    """A killed owner that can be looked up is replaced at once."""
    trial.kill(trial.owner(owner_at))
    trial.takes_over(other_at)


def dies_unknown(trial, owner_at=here, other_at=here):
    """Another one is replaced when it was silent, and that is said."""
    trial.kill(trial.owner(owner_at))
    trial.refused(partial(patient, other_at))
    wait_silent()
    trial.takes_over(other_at, 'has given no sign of life')


def reused(trial):
    """The number of a killed owner is that of another process now, which lives."""
    trial.kill(trial.owner())
    owner = json.loads(trial.lock().read_bytes())
    trial.lock().write_text(json.dumps(owner | {'pid': os.getpid()}), encoding='utf-8')
    trial.takes_over()


def wakes(trial, owner_at=here, *, finished):
    """An owner that was suspended wakes when another computes, or has finished: it writes nothing more."""
    owner = trial.owner(owner_at)
    trial.signal(owner, signal.SIGSTOP)
    trial.epochs_allowed += 1
    wait_silent()
    if finished:
        trial.takes_over(words='has given no sign of life')
    else:
        other = trial.owner(gate='second', epochs=3)
    trial.gate('gate').touch()
    trial.signal(owner, signal.SIGCONT)
    trial.expect(owner, finished, 'was taken over by another process')
    if not finished:
        trial.gate('second').touch()
        trial.expect(other, True, 'has given no sign of life')


def many(trial, owner_at=here):
    """Sixteen commands at once where the owner is dead."""
    trial.kill(trial.owner(owner_at))
    wait_silent()
    done = [trial.ended(link) for link in [trial.start() for _ in range(16)]]
    if not any(one.code == 0 for one in done):
        trial.findings.append(('lost', f'none computes it: {done[0].said[-400:]}'))


class Owners:
    """Trials, one kind after the other."""

    def __init__(self, parent, names=()):
        self.parent = parent
        folder = tools.new_folder(parent)
        done = tools.binenc(folder, *torture_kills.SCENES['train'][1])
        if done.code: raise SystemExit(f'the torture cannot begin: {done.said}')
        self.twin = tools.contents(folder)
        self.kinds = {name: trial for name, trial in self.all_kinds().items() if name in names or not names}
        if not self.elsewhere():
            print('owners: no other process namespaces: this user may not make them', flush=True)
            self.kinds = {name: trial for name, trial in self.kinds.items() if 'namespace' not in name}

    @staticmethod
    def elsewhere():
        """Whether we may make process namespaces."""
        if pid := os.fork(): return os.waitpid(pid, 0)[1] == 0
        os._exit(not unshare())

    def all_kinds(self):
        """Name -> (kind of trial, where its processes are)."""
        inside, hidden = namespace, partial(namespace, proc=False)
        host, boot = partial(another, 'host'), partial(another, 'boot')
        me, other = partial(job, os.getuid()), partial(job, 12345)
        hears = {answer: partial(asking, self.parent / answer.replace(' ', '-'), answer) for answer in SQUEUE}
        unknown, nothing, over = hears.values()
        kinds = {  # -> name -> where the owner is, and where the other
            lives: {
                'a namespace inside': (inside,),
                'a namespace outside': (here, inside),
                'a namespace that sees our processes': (hidden,),
                'two namespaces': (inside, inside),
                'another host': (host,),
                'another start': (boot,),
                'another user, whose job is hidden': (other, unknown),
                'another user, whose job is not shown': (other, nothing),
                'another cluster, which does not answer': (me, unknown),
                'a clock ahead': (host, partial(clock, DAYS)),
                'a clock behind': (host, partial(clock, -DAYS)),
            },
            dies_known: {
                'killed': (),
                'killed with its job': (me, over),
                'killed with its job, long ago': (me, nothing),
            },
            reused: {'killed, its number reused': ()},
            dies_unknown: {
                'killed in a namespace': (inside,),
                'killed on another host': (host,),
                'killed before another start': (boot,),
                "killed, another user's": (other, unknown),
            },
            partial(wakes, finished=False): {
                'suspended, wakes beside another': (),
                'suspended in a namespace': (inside,),
            },
            partial(wakes, finished=True): {'suspended, wakes after another': ()},
            many: {'sixteen': (), 'sixteen, the dead one in a namespace': (inside,)},
        }
        return {name: (kind, places) for kind, rows in kinds.items() for name, places in rows.items()}

    def trial(self, number, tally):
        """One kind; returns its name and findings."""
        name = list(self.kinds)[number % len(self.kinds)]
        trial = Trial(self.parent)
        kind, places = self.kinds[name]
        kind(trial, *places)
        tally.killed['kinds of owners'] += number < len(self.kinds)
        return name, trial.end(self.twin)


if __name__ == '__main__':
    from torture import named
    sys.exit(named('owners'))

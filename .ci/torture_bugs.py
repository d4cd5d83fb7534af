"""Bugs put in on purpose: a torture that does not find them is worth nothing."""

import inspect
import os
import sys
from functools import partial

TRIALS = 150  # in which a bug has to be found


def everywhere(name, value):
    """Replace a function in every module of the library that has it."""
    for module in [module for key, module in sys.modules.items() if key.startswith('binenc.')]:
        if hasattr(module, name):
            setattr(module, name, value)


def written_in_place():
    """A file is not written beside its place first."""
    from binenc.files import _write_durably

    def write_bytes(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(path, content)
    everywhere('write_bytes', write_bytes)


def checksums_ignored():
    """What is read is not compared with what was stored."""
    from binenc.files import read_bytes
    everywhere('read_stored', read_bytes)


def optimizer_forgotten():
    """A checkpoint does not hold the optimizer."""
    from binenc.training import Training
    restore = Training.restore

    def without(self, state):
        restore(self, {**state, 'optimizer': self.optimizer.state_dict()})
    Training.restore = without


def lock_ignored():
    """A run that another process computes is begun."""
    everywhere('acquire', lambda folder, what: folder.mkdir(parents=True, exist_ok=True) or [])


def parts_left():
    """What a killed process had half written stays."""
    everywhere('remove_parts', lambda folder: None)


def left_on_the_device(module, name):
    """A copy to the CPU is forgotten: {}."""
    function = getattr(sys.modules[f'binenc.{module}'], name)
    source = inspect.getsource(function)
    assert '.cpu()' in source, f'{name} has no copy that could be forgotten'
    names = dict(vars(sys.modules[f'binenc.{module}']))
    exec(source.replace('.cpu()', '', 1), names)
    everywhere(name, names[name])


FORGOTTEN = {'training': 'weight_bytes', 'evaluation': 'image_outputs', 'reliability': 'error_auroc'}
BUGS = {written_in_place: 'kills', checksums_ignored: 'damages', optimizer_forgotten: 'kills', lock_ignored: 'kills',
        parts_left: 'kills', **{partial(left_on_the_device, *place): 'device' for place in FORGOTTEN.items()}}


def all_found(torture, trials=TRIALS):
    """Whether the torture finds each bug; each is put into a process of its own."""
    found = []
    for bug, part in BUGS.items():
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            bug()
            tally = torture(part, trials, enough=1)
            what = bug.func.__doc__.format(bug.args[1]) if isinstance(bug, partial) else bug.__doc__
            print(f'planted: {what} Found in trial {tally.tried}.' if tally.found else
                  f'planted: {what} NOT FOUND in {tally.tried} trials', flush=True)
            os._exit(not tally.found)
        found.append(os.waitpid(pid, 0)[1] == 0)
    print(f'{sum(found)} of {len(found)} planted bugs were found')
    return all(found)

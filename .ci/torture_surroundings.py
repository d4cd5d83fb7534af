"""Awkward surroundings: a sweep of one run, figures, report and status in each of them.

Each command ends well, or with one sentence that has the words of the table; none shows a traceback or control codes.
A new surrounding is a line of the table: python .ci/torture_surroundings.py [NAME ...]
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torture_tools as tools

REPO = Path(__file__).parents[1]
COMMANDS = (
    ('sweep', 'demo', *(f'--set={name}={value}' for name, value in {
        'experiment': 'small', 'model': 'bin_enc', 'replicate': 0, 'lr': 1e-3, **tools.TINY}.items())),
    ('figures', 'small'),
    ('report', 'small'),
    ('status', 'small'),
)
STRANGER = 54321  # a user without a name
# who may read all files: where this Python is root's own, the system's library would be loaded instead
READS = ('--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search')
UNSET = None


@dataclass
class Surrounding:
    """What is changed, and what the commands say where they cannot work."""

    set: dict = field(default_factory=dict)  # variables; {tmp} is a folder; UNSET ones are removed
    shell: str = ''  # commands before, as root in a mount namespace of their own; $TMP is that folder
    folder: bytes = b'results and more'  # where the commands are called
    prefix: str = ''  # before the command
    user: int = 0
    umask: int = 0o022
    refused: str = ''


UNWRITABLE = 'mkdir -p $TMP/shut && mount -t tmpfs -o ro t $TMP/shut'
FULL = 'mkdir -p $TMP/full && mount -t tmpfs -o size=4k t $TMP/full && (cat /dev/zero > $TMP/full/x || :) 2> /dev/null'
TABLE = {
    'nothing unusual': Surrounding(),
    'the locale C': Surrounding({'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}),
    'the locale ISO-8859': Surrounding({'LC_ALL': 'en_US.ISO-8859-1', 'LOCPATH': '{tmp}', 'PYTHONUTF8': '0'}),
    'a Turkish locale': Surrounding({'LC_ALL': 'tr_TR.ISO-8859-9', 'LOCPATH': '{tmp}', 'PYTHONUTF8': '0'}),
    'a Japanese locale': Surrounding({'LC_ALL': 'ja_JP.EUC-JP', 'LOCPATH': '{tmp}', 'PYTHONUTF8': '0'}),
    'the locale UTF-8': Surrounding({'LC_ALL': 'C.UTF-8'}),
    'a process namespace': Surrounding(prefix='unshare --pid --fork --mount-proc'),
    "a process namespace with another's /proc": Surrounding(prefix='unshare --pid --fork'),
    'a user without a name or a home': Surrounding({'HOME': UNSET, 'USER': UNSET, 'LOGNAME': UNSET}, user=STRANGER),
    'no home': Surrounding({'HOME': UNSET}),
    'a home that is not there': Surrounding({'HOME': '{tmp}/nowhere/at/all'}, user=STRANGER),
    'a home that is read-only': Surrounding({'HOME': '{tmp}/shut'}, UNWRITABLE),
    'a temporary folder that is read-only': Surrounding({'TMPDIR': '{tmp}/shut'}, UNWRITABLE),
    'a temporary folder that is not there': Surrounding({'TMPDIR': '{tmp}/nowhere'}),
    'a temporary folder that is full': Surrounding({'TMPDIR': '{tmp}/full'}, FULL),
    'no temporary folder at all': Surrounding(
        {'TMPDIR': UNSET}, 'for f in /tmp /var/tmp /usr/tmp; do [ ! -d $f ] || mount -t tmpfs -o ro t $f; done',
        user=STRANGER),
    'a scratch that is not there': Surrounding({'BINENC_SCRATCH': '{tmp}/nowhere'}, refused='BINENC_SCRATCH'),
    'umask 077': Surrounding(umask=0o077),
    'a clone that is read-only': Surrounding(shell='mount --bind $REPO $REPO && mount -o remount,ro,bind $REPO'),
    'a results folder that is full': Surrounding(
        shell='mkdir -p "$PLACE/results" && mount -t tmpfs -o size=16k t "$PLACE/results"', refused='make room'),
    'a limit on the size of files': Surrounding(shell='ulimit -f 8', refused='File too large'),
    'few open files': Surrounding(shell='ulimit -n 64'),
    'standard output that is closed': Surrounding(shell='exec <&- >&-'),
    'colours into a file': Surrounding({'FORCE_COLOR': '1', 'TERM': 'xterm-256color'}),
    'a narrow terminal that is none': Surrounding({'TERM': 'dumb', 'COLUMNS': '20'}),
    'python -OO': Surrounding({'PYTHONOPTIMIZE': '2'}),
    'a path with a percent sign': Surrounding(folder=b'100% of %j'),
    'a path with a dollar sign': Surrounding(folder=b'$HOME $x$ ${y}'),
    'a path with marks of shells and pages': Surrounding(folder=b'-n # ? & <b> ~ [red] :tada: {x} *'),
    'a path with quotes': Surrounding(folder=b'it\'s "quoted" `here`'),
    'a path with umlauts': Surrounding(folder='Übung für später'.encode()),
    'a path with a line break': Surrounding(folder=b'two\nlines'),
    'a path that is not UTF-8': Surrounding(folder=b'caf\xe9', refused='is not UTF-8'),
    'a path that is not UTF-8, in C': Surrounding({'LC_ALL': 'C'}, folder=b'caf\xe9', refused='is not UTF-8'),
    'a long path': Surrounding(folder=b'a' * 250),
}


def make_locale(folder, name):
    """A locale such as en_US.ISO-8859-1, which most machines do not have ready."""
    language, _, codes = name.partition('.')
    words = ['localedef', '-i', language, '-f', codes, folder / name]
    return shutil.which('localedef') and subprocess.run(words, capture_output=True, check=False).returncode < 2


def script(surrounding, words):
    """A command of ours in its surroundings, as words of a process."""
    command = [*surrounding.prefix.split(), sys.executable, '-m', 'binenc', *words]
    if surrounding.user:
        command = ['setpriv', f'--reuid={surrounding.user}', f'--regid={surrounding.user}', *READS, *command]
    if not surrounding.shell: return command
    return ['unshare', '--mount', 'sh', '-ec', surrounding.shell + '\nexec "$@"', 'sh', *command]


class Surroundings:
    """Trials, one surrounding after the other."""

    def __init__(self, parent, names=()):
        self.parent, self.names = parent, [name for name in TABLE if name in names or not names]

    def trial(self, number, tally):
        """All commands in one surrounding; returns its name and findings."""
        name = self.names[number % len(self.names)]
        surrounding, tmp = TABLE[name], tools.new_folder(self.parent)
        if os.getuid() and (surrounding.shell or surrounding.prefix or surrounding.user):
            print(f'{name}: only for root', flush=True)
            return name, []
        if 'LOCPATH' in surrounding.set and not make_locale(tmp, surrounding.set['LC_ALL']):
            print(f'{name}: this machine cannot make it', flush=True)
            return name, []
        findings = list(self.commands(surrounding, tmp))
        tally.killed['surroundings'] += 1
        tools.remove(tmp)
        return name, findings

    def commands(self, surrounding, tmp):
        place = Path(os.fsdecode(os.fsencode(tmp) + b'/' + surrounding.folder))
        place.mkdir(parents=True)
        if surrounding.user:
            os.chown(place, surrounding.user, surrounding.user)
        given = {name: value and value.format(tmp=tmp) for name, value in surrounding.set.items()}
        variables = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'TMP': str(tmp), 'REPO': str(REPO),
                     'PLACE': str(place), 'TORCHINDUCTOR_CACHE_DIR': UNSET, **given} # torch has set it for this process
        for words in COMMANDS:
            done = subprocess.run(script(surrounding, words), cwd=place, capture_output=True, timeout=tools.SECONDS * 4,
                                  stdin=subprocess.DEVNULL, check=False, umask=surrounding.umask,
                                  env={name: value for name, value in variables.items() if value is not None})
            yield from judged(done, words[0], surrounding.refused)
            if done.returncode: return


def judged(done, name, refused):
    """Findings about a command that ended."""
    errors = done.stderr.decode(errors='replace')
    said = done.stdout.decode(errors='replace') + errors
    if 'Traceback' in said:
        yield 'tracebacks', f'{name}: {said[-1500:]}'
    elif '\x1b' in said:
        yield 'silently wrong', f'{name}: control codes in a file: {said!r:.300}'
    elif refused and (done.returncode == 0 or refused not in said):
        yield 'lost', f'{name}: exit {done.returncode} without {refused!r}: {said[-600:]}'
    elif not refused and done.returncode:
        yield 'lost', f'{name}: exit {done.returncode}: {said[-600:]}'
    elif done.returncode and len(errors.strip().splitlines()) > 1:
        yield 'lost', f'{name}: more than one line of errors: {errors[-600:]}'


if __name__ == '__main__':
    from torture import named
    sys.exit(named('surroundings'))

"""What the tortures share: a command in a process that is forked warm, files compared, findings counted."""

import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

KINDS = ('lost', 'computed twice', 'silently wrong', 'tracebacks', 'left behind')
TINY = dict(epochs=4, width=8, deepfool_images=5, log_every=2, val_fraction=0.1)
GRID = ('demo', '--set', 'experiment=small', *(f'--set={name}={value}' for name, value in TINY.items()))
MODELS = ('bin_enc', 'no_pen')
SECONDS = 300  # after which a command hangs


@dataclass
class Ended:
    """How a command ended: exit code, or minus the signal; what it printed."""

    code: int
    out: str
    errors: str

    @property
    def said(self):
        return self.out + self.errors

    @property
    def sentence(self):
        """The one line of an error, or nothing if there are more or none."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return lines[0] if len(lines) == 1 else ''


@dataclass
class Tally:
    """Trials and what they found."""

    tried: int = 0
    found: Counter = field(default_factory=Counter)
    killed: Counter = field(default_factory=Counter)

    def add(self, number, title, findings):
        self.tried += 1
        for kind, text in findings:
            self.found[kind] += 1
            print(f'trial {number}, {title}: {kind}: {text}', flush=True)

    def line(self, part):
        counts = ', '.join(f'{self.found[kind]} {kind}' for kind in KINDS)
        kills = ''.join(f', {count} {how}' for how, count in sorted(self.killed.items()))
        return f'{part}: {self.tried} tried, {counts}{kills}'


def prepare():
    """Import what commands need, once: a forked process then starts in milliseconds. Threads would not survive it."""
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='agg', http_proxy='http://127.0.0.1:9',
                      https_proxy='http://127.0.0.1:9')
    import sklearn.model_selection  # noqa: F401
    import torch

    import binenc
    for module in pkgutil.iter_modules(binenc.__path__):
        if not module.name.startswith('_'):
            importlib.import_module(f'binenc.{module.name}')
    for module in binenc.execute.TRAINS: # a command of a trial would import them again
        importlib.import_module(module)
    torch.set_num_threads(1)
    b'x'.decode('cp437')  # zip files' codec, which another user might not be able to load
    about = {'versions': {'torch': torch.__version__}, 'device': 'cpu', 'commit': 'none', 'dirty': False}
    binenc.store.provenance = lambda device: about  # asking git takes longer than a trial
    binenc.training.CHECKPOINT_SECONDS = 0
    binenc.execute.execute_notebook = notebook_here
    binenc.execute.Apart = binenc.commands.Apart = Here
    binenc.execute.wait = lambda *_: None
    binenc.execute.draw_figures = binenc.commands.draw_figures = tables_here


class Here:
    """A call in this process, in place of one in a copy of it: what is written is counted and killed here."""

    process = SimpleNamespace(is_alive=lambda: False, sentinel=None)

    def __init__(self, function, *arguments):
        from binenc.execute import told
        self.value, self.error = None, None
        try:
            self.value = function(*arguments)
        except Exception as error:
            self.error = told(error)

    def result(self):
        """What the function returned or raised."""
        if self.error:
            raise self.error
        return self.value


def notebook_here(name, output, parameters):
    """What the notebook does that papermill would run, in this process."""
    from dataclasses import fields

    from binenc.errors import UserError
    from binenc.restored import measure_run
    from binenc.run import Run
    from binenc.training import Stopped, train
    places = [parameters[name] for name in ('results_dir', 'data_dir')]
    try:
        if name == '4_training/train.ipynb':
            train(Run(**{f.name: parameters[f.name] for f in fields(Run)}), *places)
        else:
            measure_run(_run_of(parameters), parameters['only'], *places)
    except Stopped:
        pass
    except UserError as error: raise _Failed(error) from None


def _run_of(parameters):
    from binenc.experiment import expand
    from binenc.store import resolve_experiment
    runs = expand(resolve_experiment(parameters['experiment'], parameters['results_dir']))
    return next(run for run in runs if run.id == parameters['run_id'])


class _Failed(Exception):
    """As papermill reports an error of a notebook."""

    def __init__(self, error):
        self.ename, self.evalue = type(error).__name__, str(error)


def tables_here(experiments, folder, results_dir, settings=(), jobs=None, only='*'):
    """The tables, without the notebooks and pictures."""
    from binenc.figures import StoredResults
    from binenc.tables import accuracy_table, as_markdown, auroc_table, code_summary, save_table
    results = StoredResults(experiments, results_dir, settings)
    for table in accuracy_table, auroc_table, code_summary:
        rows = table(results)
        save_table(rows, folder, table.__name__, as_markdown(rows, results.captions()))


def command(*words):
    """`binenc WORDS` in this process; returns the exit code."""
    from binenc.commands import main
    sys.argv = ['binenc', *map(str, words)]
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def fork(function, folder, before=None, user=None):
    """Start `function()` in a forked process whose folder and output are `folder`'s; returns the process's id."""
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        for number, name in (1, 'out'), (2, 'errors'):
            os.dup2(os.open(f'{folder}.{name}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        if user:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        if before:
            before()
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def ended(pid, folder, seconds=SECONDS):
    """Wait for a process that `fork` started."""
    end = time.monotonic() + seconds
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(99, '', 'Traceback: it hangs')
        time.sleep(0.005)
    texts = (Path(f'{folder}.{name}').read_text(errors='replace', encoding='utf-8') for name in ('out', 'errors'))
    return Ended(os.waitstatus_to_exitcode(done[1]), *texts)


def run(function, folder, **options):
    """Call `function()` in a forked process and wait for it."""
    return ended(fork(function, folder, **options), folder)


def binenc(folder, *words, **options):
    """`binenc WORDS` in a forked process."""
    return run(lambda: command(*words), folder, **options)


def new_folder(parent=None):
    """An empty folder that other users may enter."""
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None  # a disk would only be slower
    folder = Path(tempfile.mkdtemp(prefix='torture-', dir=parent or memory))
    folder.chmod(0o755)
    return folder


def remove(folder):
    """Remove a folder and what `fork` wrote beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in 'out', 'errors', 'epochs':
        Path(f'{folder}.{name}').unlink(missing_ok=True)


def contents(folder):
    """The files below a folder: name -> bytes, without times; None for what holds little else."""
    paths = (path for path in sorted(Path(folder).rglob('*')) if path.is_file())
    return {path.relative_to(folder).as_posix(): timeless(path.name, path.read_bytes()) for path in paths}


def timeless(name, content):
    """A file's content without the times in it."""
    if name == 'progress.json': return None
    if name == 'SHA256SUMS': return b'\n'.join(li for li in content.split(b'\n') if not li.endswith(b'  run.json'))
    if name != 'run.json': return content
    try: return json.dumps(json.loads(content) | {'seconds': None}).encode()
    except ValueError: return content


def compare(twin, now):
    """Findings where files differ from an undisturbed run's."""
    for name in sorted(twin.keys() - now.keys()):
        yield 'lost', f'{name} is missing'
    for name in sorted(now.keys() - twin.keys()):
        yield 'left behind', name
    for name in sorted(name for name in twin.keys() & now.keys() if twin[name] != now[name]):
        yield 'silently wrong', f'{name} differs from the undisturbed one{first_difference(twin[name], now[name])}'


def first_difference(before, now):
    """Where two texts differ."""
    lines = [(a, b) for a, b in zip_longest(before.splitlines(), now.splitlines()) if a != b]
    return f': {lines[0][0]!r:.120} became {lines[0][1]!r:.120}' if lines else ''


def complaints(done):
    """Findings about how a command answered."""
    if 'Traceback' in done.said:
        yield 'tracebacks', done.said[-300:]


def draw(part, number):
    """The random numbers of one trial."""
    return random.Random(f'{part} {number}')

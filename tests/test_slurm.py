"""Sweeps on a real SLURM, disturbed in every way that a cluster knows. The cluster is started by the test, see
slurm_cluster.py."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from binenc.experiment import expand, find_experiment, parse_settings
from binenc.files import write_json
from binenc.launch import run_state
from binenc.store import run_folder
from helpers import REPO, settings, wait_for
from slurm_cluster import SlurmCluster, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or '')
BIN = Path(sys.executable).parent


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A fresh clone of the repository, with what is not committed yet."""
    folder = tmp_path_factory.mktemp('slurm') / 'clone'
    files = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', 'slurm', 'nbs', 'binenc'],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split('\0')
    for name in filter(None, files):
        if (REPO / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """Two stand-in GPUs, so two trainings at a time on a machine of two cores; room for many small tasks."""
    with SlurmCluster(tmp_path_factory.mktemp('cluster'), cpus=32, gpus=2) as cluster:
        yield cluster


class Site:
    """A user at a login node: the clone, and the cluster's commands."""

    def __init__(self, clone, cluster):
        self.clone, self.cluster, self.results = clone, cluster, clone / 'results'

    def start(self, *words):
        env = {**self.cluster.environment(), 'PATH': f'{BIN}:{os.environ["PATH"]}'}
        return subprocess.Popen(
            list(map(str, words)),
            cwd=self.clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *words, code=0):
        process = self.start(*words)
        text, _ = process.communicate(timeout=300)
        assert process.returncode == code, text
        return text

    def submit(self, name, *flags, **values):
        return self.call('slurm/submit.sh', 'demo', *settings(experiment=name, **values), *flags)

    def runs(self, name, **values):
        return expand(
            find_experiment('demo').override(
                **parse_settings([f'{k}={v}' for k, v in dict(values, experiment=name).items()])
            )
        )

    def states(self, runs):
        return [run_state(run_folder(run, self.results))[0] for run in runs]

    def attempts(self, run):
        return len(list(run_folder(run, self.results).path.glob('train-*.ipynb')))

    def logs(self, name):
        return '\n'.join(
            f'--- {p.name}\n{p.read_text()[-1500:]}' for p in sorted((self.results / name / 'logs').glob('*'))
        )


@pytest.fixture
def site(clone, cluster):
    return Site(clone, cluster)


def until_settled(site, name, seconds):
    """Wait until no job is left; on a time-out the logs are in the error."""
    try:
        site.cluster.wait(seconds)
    except TimeoutError as error:
        raise AssertionError(f'{error}\n{site.logs(name)}') from None


def owner(run, results):
    """Who computes a run, as in its lock."""
    try:
        return json.loads((run_folder(run, results) / 'lock').read_text())
    except (OSError, ValueError):
        return None


def parent(pid):
    return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])


def epoch(run, results):
    """The epoch that a run says it has reached."""
    try:
        return json.loads((run_folder(run, results) / 'progress.json').read_text())['epoch']
    except (OSError, ValueError):
        return 0


def training(site, runs, not_in=()):
    """A run that is in the first half of its training, with its owner."""
    for run in runs:
        who = owner(run, site.results)
        if (
            who
            and run not in not_in
            and Path(f'/proc/{who["pid"]}').exists()
            and 0 < epoch(run, site.results) < run.epochs / 2
        ):
            return run, who


def task_of(cluster, who):
    return next(j['id'] for j in cluster.jobs() if j['job_id'] == who['job'])


DISTURBANCES = {
    'task killed': lambda cluster, who: os.kill(parent(who['pid']), signal.SIGKILL),
    'kernel killed': lambda cluster, who: os.kill(who['pid'], signal.SIGKILL),
    'requeued': lambda cluster, who: cluster.run('scontrol', 'requeue', task_of(cluster, who)),
    'signalled': lambda cluster, who: cluster.run('scancel', '--signal=USR1', '--batch', task_of(cluster, who)),
}


def disturb(site, runs, what, done):
    """Do it to the next training that is not through before it is hit; returns the run."""
    tried = set(done)
    while True:
        run, who = wait_for(lambda: training(site, runs, tried), 120, f'a training to be {what}')
        tried.add(run)
        try:
            DISTURBANCES[what](site.cluster, who)
        except (OSError, StopIteration, RuntimeError):
            continue  # it ended meanwhile
        if not (run_folder(run, site.results) / 'metrics.json').exists():
            return run


CHAOS = dict(epochs=200, width=16, replicate='0,1', log_every=10, deepfool_images=5)


def test_a_disturbed_sweep_ends_in_figures(site, cluster):
    """16 runs: the task, a kernel, and a job are killed, one is requeued, all meet a time limit, one fails by
    itself. The rest equals its twins to the bit."""
    from binenc.training import train

    runs = site.runs('chaos', **CHAOS)
    bad = runs[-1]
    write_json(
        run_folder(bad, site.results) / 'run.json', {'run': {'lr': 'another'}}
    )  # its own error, in every attempt
    said = site.submit('chaos', '--', '--time=1', **CHAOS)
    assert re.search(r'submitted 1 array \(job \d+\) and the figures after', said)
    assert 'nothing to submit' in site.submit('chaos', **CHAOS)  # all of it is queued or running

    disturbed = {}
    for what in DISTURBANCES:
        disturbed[disturb(site, runs, what, disturbed)] = what
    assert 'queued' in site.call('binenc', 'status', 'chaos')

    until_settled(site, 'chaos', 420)
    assert site.states(runs) == ['finished'] * 15 + ['failed'], site.call('binenc', 'status', 'chaos') + site.logs(
        'chaos'
    )
    assert all(site.attempts(run) > 1 for run in disturbed), {
        what: site.attempts(run) for run, what in disturbed.items()
    }
    listed = site.call('binenc', 'status', 'chaos', '--failed')
    assert bad.id in listed and 'describes another run' in listed and 'train-1.ipynb' in listed
    caption = (site.results / 'chaos' / 'tables' / 'table1_accuracy.md').read_text()
    assert f'1 of 16 runs are missing: {bad.id}' in caption
    assert len(list((site.results / 'chaos' / 'figures').glob('*.png'))) == 7
    for run in runs[:-1]:  # their twins, left alone
        train(run, site.clone / 'twins')
        for name in 'metrics.json', 'history.csv':
            assert (run_folder(run, site.results) / name).read_bytes() == (
                run_folder(run, site.clone / 'twins') / name
            ).read_bytes(), disturbed.get(run)


SMALL = dict(epochs=3, width=8, replicate=0, lr='1e-3', log_every=1, deepfool_images=0)


def test_simultaneous_submissions(site):
    """Two of one experiment and one of another at the same time: nothing is computed twice, both end in figures."""
    commands = [
        site.start('slurm/submit.sh', 'demo', *settings(experiment=name, **SMALL), '--runs-per-task', '2')
        for name in ('same', 'same', 'other')
    ]
    said = [process.communicate(timeout=120)[0] for process in commands]
    assert sorted('nothing to submit' in text for text in said) == [False, False, True], said
    until_settled(site, 'same', 200)
    for name in 'same', 'other':
        runs = site.runs(name, **SMALL)
        assert site.states(runs) == ['finished'] * 4, site.logs(name)
        assert [site.attempts(run) for run in runs] == [1] * 4
        assert (site.results / name / 'figures' / 'figure5_accuracy.png').exists()


def test_cancelled_and_submitted_again(site, cluster):
    """Cancelling keeps what is computed, brings nothing back by itself, and the next submission goes on from it."""
    values = dict(SMALL, epochs=400, log_every=20)
    said = site.submit('cancelled', **values)
    runs = site.runs('cancelled', **values)
    run, _ = wait_for(lambda: training(site, runs), 120, 'a training')
    wait_for(lambda: (run_folder(run, site.results) / 'checkpoint.pt').exists(), 60, 'a checkpoint')
    assert 'binenc cancel cancelled' in said and '/cancelled/logs/' in said
    assert 'cancelled ' in site.call('binenc', 'cancel', 'cancelled')
    cluster.wait(60)
    assert not cluster.active() and 'finished' not in site.states(runs)
    assert run_folder(run, site.results).owner is None
    site.submit('cancelled', **values)
    until_settled(site, 'cancelled', 200)
    assert site.states(runs) == ['finished'] * 4, site.logs('cancelled')
    assert any(
        'continues after epoch' in log.read_text() for log in (site.results / 'cancelled' / 'logs').glob('*.out')
    )


NODE_DOWN = dict(SMALL, epochs=400, model='bin_enc,lin_pen', log_every=20)


def test_a_node_that_fails(site, cluster):
    """A node that goes down takes its tasks with it; they come back with the next attempt."""
    site.submit('node', **NODE_DOWN)
    runs = site.runs('node', **NODE_DOWN)
    wait_for(lambda: training(site, runs), 120, 'a training')
    cluster.run('scontrol', 'update', 'nodename=localhost', 'state=down', 'reason=test')
    time.sleep(8)
    cluster.run('scontrol', 'update', 'nodename=localhost', 'state=resume', check=False)  # it may be back already
    until_settled(site, 'node', 200)
    assert site.states(runs) == ['finished'] * 2, site.logs('node')


def test_many_kernels_at_once(site, cluster, tmp_path):
    """24 array tasks start a kernel each at the same moment on one node."""
    import nbformat

    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('number = 0', metadata={'tags': ['parameters']}),
            nbformat.v4.new_code_cell('print(number)'),
        ]
    )
    notebook.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    (tmp_path / 'nbs').mkdir()
    nbformat.write(notebook, tmp_path / 'nbs' / 'tiny.ipynb')
    script = tmp_path / 'one.py'
    script.write_text(f'''
import os, time
from pathlib import Path
from binenc import launch
launch.notebook_path = lambda name: Path({str(tmp_path)!r}) / 'nbs' / name
import papermill
task, started = os.environ['SLURM_ARRAY_TASK_ID'], Path({str(tmp_path)!r}) / 'started'
started.mkdir(exist_ok=True); (started / task).touch()
while len(os.listdir(started)) < 24: time.sleep(0.01) # all kernels at the same moment
launch.execute_notebook('tiny.ipynb', Path({str(tmp_path)!r}) / 'out' / f'{{task}}.ipynb', {{'number': int(task)}})
''')
    cluster.run('sbatch', '--array=0-23', f'--output={tmp_path}/%a.log', f'--wrap=exec {sys.executable} {script}')
    cluster.wait(200)
    logs = '\n'.join(p.read_text() for p in tmp_path.glob('*.log'))
    done = [
        nbformat.read(tmp_path / 'out' / f'{i}.ipynb', 4)
        for i in range(24)
        if (tmp_path / 'out' / f'{i}.ipynb').exists()
    ]
    assert sorted(int(nb.cells[-1].outputs[0].text) for nb in done) == list(range(24)), logs


def test_data_must_be_in_place(site):
    """Compute nodes may have no internet: what is missing is named with the command to run."""
    said = site.call('slurm/submit.sh', 'cifar10', code=1)
    assert 'run "binenc data cifar10"' in said and 'Traceback' not in said

"""Sweeps on a real SLURM, disturbed in every way that a cluster knows. The cluster is started by the test, see
slurm_cluster.py; its commands are wrapped as some sites do it, and print a greeting first. What depends on the words
of other people's clusters alone is in test_submission.py."""

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
import torch

from binenc.execute import run_state
from binenc.experiment import expand, find_experiment, parse_settings
from binenc.files import write_json
from binenc.locks import Timer
from binenc.store import run_folder
from helpers import REPO, settings, tracked, wait_for
from slurm_cluster import SlurmCluster, find_program, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or '')
BIN = Path(sys.executable).parent
by_the_clock = pytest.mark.skipif(
    'BINENC_SLOW_TESTS' not in os.environ,
    reason='whether the disturbance comes in time depends on how fast the machine trains: BINENC_SLOW_TESTS=1 runs it',
)
CLUSTER_SH = """
BINENC_FIGURES_FLAGS+=" $TEST_FIGURES_FLAGS"
[ -n "$REAL_GPUS" ] || CUDA_VISIBLE_DEVICES=
if [ -n "$SLURM_JOB_ID" ] && [ -n "$MISSING" ]; then no-such-module; exit 1; fi
[ -n "$SLURM_JOB_ID" ] && SLURM_CONF=${CONF_THERE:-$SLURM_CONF}
[ -n "$NOT_SET" ] && module load cuda
"""  # as people write it: unset variables, a last line of 1


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A fresh clone of the repository, with what is not committed yet, and a folder of wrapped commands. It has a name
    with much of what shells and SLURM would replace."""
    folder = tmp_path_factory.mktemp('slurm') / "100%A für $HOME's *"
    for name in tracked('slurm', 'nbs', 'binenc'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    with (folder / 'slurm' / 'cluster.sh').open('a', encoding='utf-8') as file:
        file.write(CLUSTER_SH)
    (folder / 'wrapped').mkdir()
    for name in 'sbatch', 'squeue':
        greeting = 'echo "*** 2 nodes | down | until Friday ***"'
        script = f'#!/bin/sh\n{greeting}; exec {find_program(name)} "$@"\n'
        (folder / 'wrapped' / name).write_text(script, encoding='utf-8')
        (folder / 'wrapped' / name).chmod(0o755)
    return folder


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """Two stand-in GPUs, so two trainings at a time on a machine of two cores. Two partitions, of which one preempts
    the other after a time of grace; arrays of 4 tasks; jobs that take too much memory are killed, and ended ones are
    soon forgotten."""
    partitions = {
        'debug': 'PriorityTier=1 PreemptMode=REQUEUE GraceTime=4',
        'high': 'PriorityTier=10 PreemptMode=OFF',
        'short': 'PriorityTier=1 PreemptMode=REQUEUE MaxTime=1',
    }
    conf = dict(
        MaxArraySize=4,
        PreemptType='preempt/partition_prio',
        PreemptMode='REQUEUE',
        KillWait=10,
        MinJobAge=5,
        SelectTypeParameters='CR_CPU_Memory',
        DefMemPerCPU=4000,
        JobAcctGatherType='jobacct_gather/linux',
        JobAcctGatherFrequency='task=1',
        JobAcctGatherParams='OverMemoryKill',
    )
    with SlurmCluster(tmp_path_factory.mktemp('cluster'), memory=128_000, conf=conf, partitions=partitions) as cluster:
        yield cluster


PATIENCE = 600  # s without any progress before a test gives up


class Site:
    """A user at a login node: the clone, and the cluster's commands."""

    def __init__(self, clone, cluster):
        self.clone, self.cluster, self.results = clone, cluster, clone / 'results'

    def start(self, *words, env=None, cwd=None):
        env = {**self.cluster.environment(), 'PATH': f'{self.clone}/wrapped:{BIN}:{os.environ["PATH"]}', **(env or {})}
        return subprocess.Popen(
            list(map(str, words)),
            cwd=cwd or self.clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *words, code=0, env=None, cwd=None):
        process = self.start(*words, env=env, cwd=cwd)
        text, _ = process.communicate(timeout=600)
        assert process.returncode == code, text
        return text

    def submit(self, name, *flags, code=0, env=None, **values):
        return self.call('slurm/submit.sh', 'demo', *settings(experiment=name, **values), *flags, code=code, env=env)

    def jobs(self, name):
        """The active jobs of an experiment."""
        return [j for j in self.cluster.active() if j['name'] in (f'binenc-{name}', f'binenc-{name}-figures')]

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

    def logs(self, name, characters=1500):
        logs = sorted((self.results / name / 'logs').glob('*'))
        return '\n'.join(f'--- {log.name}\n{log.read_text(encoding="utf-8")[-characters:]}' for log in logs)

    def continued(self, name):
        """How many attempts said that they went on from a checkpoint."""
        notebooks = (self.results / name).glob('runs/*/train-*.ipynb')
        return sum('continues after epoch' in path.read_text(encoding='utf-8') for path in notebooks)

    def plans(self, name):
        return list((self.results / name / 'plans').glob('*.jsonl'))


@pytest.fixture
def site(clone, cluster):
    return Site(clone, cluster)


def release_held(cluster, active):
    """What SLURM holds after a node has failed goes on, as an administrator would have it."""
    for held in (j for j in active if 'requeued held' in j['reason']):
        cluster.run('scontrol', 'release', held['id'], check=False)


def until_settled(site, name):
    """Wait until no job is left, as long as there is progress: jobs change, or files of the experiment."""
    seen, since = None, time.monotonic()
    while active := site.cluster.active():
        release_held(site.cluster, active)
        files = [(path, path.stat().st_mtime_ns) for path in (site.results / name).rglob('*') if path.exists()]
        now = [(j['id'], j['state'], j['restarts']) for j in active], sorted(files)
        if now != seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() - since < PATIENCE, f'no progress: {active}\n{site.logs(name)}'
        time.sleep(1)


def owner(run, results):
    """Who computes a run, as in its lock."""
    try:
        return json.loads((run_folder(run, results) / 'lock').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def parent(pid):
    return int(Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()[1])


def epoch(run, results):
    """The epoch that a run says it has reached."""
    try:
        return json.loads((run_folder(run, results) / 'progress.json').read_text(encoding='utf-8'))['epoch']
    except (OSError, ValueError):
        return 0


def training(site, runs, not_in=()):
    """A run that is in the first three quarters of its training, with its owner."""
    for run in runs:
        who = owner(run, site.results)
        if (
            who
            and run not in not_in
            and Path(f'/proc/{who["pid"]}').exists()
            and 0 < epoch(run, site.results) < run.epochs * 3 / 4
        ):
            return run, who


def task_of(cluster, who):
    return next(j['id'] for j in cluster.jobs() if j['job_id'] == who['job'])


def node_down(cluster):
    cluster.run('scontrol', 'update', 'nodename=localhost', 'state=down', 'reason=test')
    running = lambda: any(j['state'] == 'RUNNING' for j in cluster.jobs())  # noqa: E731
    wait_for(lambda: not running() and not cluster.leftovers(), PATIENCE, 'the end of the tasks')
    wait_for(lambda: resumed(cluster), PATIENCE, 'a node that is up again')


def resumed(cluster):
    """Whether the node is up; it is told to be."""
    cluster.run('scontrol', 'update', 'nodename=localhost', 'state=resume', check=False)  # it may be back already
    return re.search(r'State=(IDLE|MIXED|ALLOCATED)\s', cluster.run('scontrol', 'show', 'node', 'localhost').stdout)


DISTURBANCES = {
    'task killed': lambda cluster, who: os.kill(parent(who['pid']), signal.SIGKILL),
    'process killed': lambda cluster, who: os.kill(who['pid'], signal.SIGKILL),
    'requeued': lambda cluster, who: cluster.run('scontrol', 'requeue', task_of(cluster, who)),
    'node down': lambda cluster, who: node_down(cluster),
    'signalled': lambda cluster, who: cluster.run('scancel', '--signal=USR1', '--batch', task_of(cluster, who)),
}


def disturb(site, runs, what, done):
    """Do it to the next training that is not through before it is hit; returns the run."""
    tried, asked = set(done), Timer()

    def found():
        """A training; squeue is asked rarely, as it takes longer than an epoch."""
        if asked.due(5):
            asked.reset()
            release_held(site.cluster, active := site.cluster.active())
            assert active, f'nothing is left to be {what}: {site.states(runs)}'
        return training(site, runs, tried)

    while True:
        run, who = wait_for(found, PATIENCE, f'a training to be {what}')
        tried.add(run)
        try:
            DISTURBANCES[what](site.cluster, who)
        except (OSError, StopIteration, RuntimeError):
            continue  # it ended meanwhile
        if not (run_folder(run, site.results) / 'metrics.json').exists():
            return run


CHAOS = dict(epochs=300, width=16, replicate=0, log_every=10, deepfool_images=0)  # long enough to be seen and hit


def test_a_disturbed_sweep_ends_in_figures(site, cluster):
    """8 runs in two arrays: task, process of a run, and node are killed, one is requeued, one signalled, one fails by
    itself. The disturbed ones equal their twins to the bit."""
    from binenc.training import train

    runs = site.runs('chaos', **CHAOS)
    bad = runs[-1]
    write_json(
        run_folder(bad, site.results) / 'run.json', {'run': {'lr': 'another'}}
    )  # its own error, in every attempt
    said = site.submit('chaos', '--max-parallel', '2', '--', '--time=3', **CHAOS)
    first, second = re.search(r'submitted 2 arrays \(job (\d+), (\d+)\) and the figures after', said).groups()
    assert {j['dependency'].split('(')[0] for j in site.jobs('chaos') if j['array_job_id'] == second} == {
        f'afterany:{first}_*'
    }
    assert 'nothing to submit' in site.submit('chaos', **CHAOS)  # all of it is queued or running

    disturbed = {}
    for what in DISTURBANCES:
        disturbed[disturb(site, runs, what, disturbed)] = what
    shown = site.call('binenc', 'status', 'chaos')
    assert 'queued' in shown or 'starting' in shown, shown
    until_settled(site, 'chaos')
    assert site.states(runs) == ['finished'] * 7 + ['failed'], site.call('binenc', 'status', 'chaos') + site.logs(
        'chaos'
    )
    assert all(site.attempts(run) > 1 for run in disturbed), {
        what: site.attempts(run) for run, what in disturbed.items()
    }
    assert 'DUE TO NODE FAILURE' in site.logs('chaos', 10**6)
    listed = site.call('binenc', 'status', 'chaos', '--failed')
    assert bad.id in listed and 'describes another run' in listed and 'train-1.ipynb' in listed
    caption = (site.results / 'chaos' / 'tables' / 'table1_accuracy.md').read_text(encoding='utf-8')
    assert f'1 of 8 runs are missing: {bad.id}' in caption
    assert len(list((site.results / 'chaos' / 'figures').glob('*.png'))) == 7
    for run, what in disturbed.items():  # their twins, left alone
        train(run, site.clone / 'twins')
        for name in 'metrics.json', 'history.csv':
            assert (run_folder(run, site.results) / name).read_bytes() == (
                run_folder(run, site.clone / 'twins') / name
            ).read_bytes(), what


SMALL = dict(epochs=3, width=8, replicate=0, lr='1e-3', log_every=1, deepfool_images=0, model='bin_enc,lin_pen')
LONG = dict(SMALL, epochs=1200, gamma_factor=1.001, log_every=1200)


def test_simultaneous_submissions(site):
    """Two of one experiment at the same time: nothing is computed twice, and it ends in figures."""
    commands = [
        site.start('slurm/submit.sh', 'demo', *settings(experiment='same', **SMALL), '--runs-per-task', '2')
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in commands]
    assert sorted('nothing to submit' in text for text in said) == [False, True], said
    until_settled(site, 'same')
    runs = site.runs('same', **SMALL)
    assert site.states(runs) == ['finished'] * 2, site.logs('same')
    assert [site.attempts(run) for run in runs] == [1] * 2
    assert (site.results / 'same' / 'figures' / 'figure5_accuracy.png').exists()


def test_cancelled_and_submitted_again(site, cluster):
    """By hand, and forgotten by SLURM when the job that draws looks: nothing comes back by itself. The next submission
    goes on, and `binenc cancel` ends that."""
    values = dict(SMALL, epochs=400, log_every=20)
    said = site.submit('cancelled', **values)
    array, figures = re.search(r'job (\d+)\) and the figures after \(job (\d+)\)', said).groups()
    runs = site.runs('cancelled', **values)
    run, _ = wait_for(lambda: training(site, runs), PATIENCE, 'a training')
    wait_for(lambda: (run_folder(run, site.results) / 'checkpoint.pt').exists(), PATIENCE, 'a checkpoint')
    cluster.run('scontrol', 'hold', figures)
    cluster.run('scancel', array)
    wait_for(lambda: not any(j['array_job_id'] == array for j in cluster.jobs()), PATIENCE, 'that it is forgotten')
    assert 'last ended as CANCELLED' in site.call('binenc', 'status', 'cancelled', '--failed')
    cluster.run('scontrol', 'release', figures)
    until_settled(site, 'cancelled')
    assert 'finished' not in site.states(runs) and len(site.plans('cancelled')) == 1, site.logs('cancelled')
    assert run_folder(run, site.results).owner is None
    site.submit('cancelled', **values)
    wait_for(lambda: training(site, runs), PATIENCE, 'that it goes on')
    assert 'cancelled ' in site.call('binenc', 'cancel', 'cancelled')
    wait_for(lambda: not site.jobs('cancelled'), PATIENCE, 'that nothing is queued')
    assert site.continued('cancelled')
    assert 'CANCELLED' in site.call('binenc', 'status', 'cancelled')


def test_what_a_job_waits_for(site, cluster):
    """A limit of the partition, a suspended task; a task that may not requeue itself is submitted again by the
    job that draws."""
    values = dict(LONG, model='bin_enc', epochs=30000) # no machine is through with them before it is told to stop
    site.submit('waiting', '--', '--no-requeue', '--partition=short', '--time=3', **values)
    [run] = site.runs('waiting', **values)
    [task] = (j for j in site.jobs('waiting') if j['array_task_id'] == '0')

    def shown():
        return site.call('binenc', 'status', 'waiting')

    wait_for(lambda: 'PartitionTimeLimit' in shown(), PATIENCE, 'the reason')
    assert 'with a shorter --time' in shown()
    cluster.run('scontrol', 'update', f'jobid={task["id"]}', 'partition=debug')
    wait_for(lambda: training(site, [run]), PATIENCE, 'a training')
    cluster.run('scontrol', 'suspend', task['id'])
    assert 'suspended          1' in shown() and 'running ' not in shown()
    cluster.run('scontrol', 'resume', task['id'])
    cluster.run('scancel', '--signal=USR1', '--batch', task['id'])
    wait_for(lambda: len(site.jobs('waiting')) == len(site.plans('waiting')) == 2, PATIENCE, 'another submission')
    assert 'the job that draws submits' in site.logs('waiting')
    site.call('binenc', 'cancel', 'waiting')


def test_tasks_that_end_without_a_word_of_their_own(site):
    """A module that is missing on the nodes; a task that is killed for lack of memory; a GPU that torch cannot use."""
    values = dict(SMALL, model='bin_enc')
    site.submit('missing', env={'MISSING': '1'}, **values)
    site.submit('memory', '--', '--mem=200', **values)
    if not torch.cuda.is_available():
        site.submit('no-gpu', env={'REAL_GPUS': '1'}, **values)
    until_settled(site, '.')
    listed = site.call('binenc', 'status', 'missing', '--failed')
    assert 'ended before it began: see' in listed and 'no-such-module: command not found' in listed, listed
    listed = site.call('binenc', 'status', 'memory', '--failed')
    assert 'last ended as OUT_OF_MEMORY: submit with more' in listed and '/memory/logs/' in listed, site.logs('memory')
    assert len(site.plans('memory')) == len(site.plans('missing')) == 1  # not submitted again
    if not torch.cuda.is_available():
        assert 'but torch cannot use it' in site.call('binenc', 'status', 'no-gpu', '--failed')


def test_a_refused_submission(site, cluster):
    """Where the second job is refused, the first is taken back; a partition in the environment holds for both."""
    values = dict(SMALL, model='bin_enc')
    said = site.submit('refused', code=1, env={'TEST_FIGURES_FLAGS': '--partition=nowhere'}, **values)
    assert 'invalid partition specified: nowhere' in said and 'Nothing is submitted' in said, said
    assert not site.plans('refused')
    wait_for(lambda: not site.jobs('refused'), PATIENCE, 'that nothing is queued')
    site.submit('refused', env={'SBATCH_PARTITION': 'high'}, **values)
    listing = cluster.run('squeue', '--noheader', '--format=%P', '--name=binenc-refused,binenc-refused-figures').stdout
    assert listing.split() == ['high', 'high']
    until_settled(site, 'refused')
    assert site.states(site.runs('refused', **values)) == ['finished'], site.logs('refused')
    assert len(list((site.results / 'refused' / 'figures').glob('*.png'))) == 7, site.logs('refused')


def gone(site, owner):
    """Whether the owner of a lock is known to have ended, if it was on another host."""
    code = 'import json, sys; from binenc.locks import gone; print(gone(json.loads(sys.argv[1])))'
    return 'True' in site.call('python', '-c', code, json.dumps(owner | {'host': 'another'}))


@pytest.mark.skipif(why_not(accounting=True) is not None, reason=why_not(accounting=True) or '')
def test_another_cluster_and_a_limit_on_submissions(clone, tmp_path_factory):
    """Jobs go to another cluster, and everything asks there; where its controller is down, cancelling is not half done.
    Here, a user may submit four jobs: two of four runs are computed, and then the others."""
    folder, limits = tmp_path_factory.mktemp('clusters'), {'AccountingStorageEnforce': 'limits'}
    with (SlurmCluster(folder / 'near', accounting=True, conf=limits) as near,
          SlurmCluster(folder / 'far', beside=near) as far):
        site, there = Site(clone, near), {'CONF_THERE': str(far.conf)}
        for words in ('account lab', 'user root account=lab maxsubmitjobs=4'):
            near.run('sacctmgr', '-i', 'add', *words.split(), f'cluster={near.name}')
        said = site.submit('far', '--', '-M', far.name, env=there, **LONG)
        array = re.search(rf'job (\d+;{far.name})\)', said)[1]
        runs = site.runs('far', **LONG)
        _, who = wait_for(lambda: training(site, runs), PATIENCE, 'a training')
        assert not gone(site, who)
        assert re.search(r'^(running|starting) +[12]$', site.call('binenc', 'status', 'far'), re.M)
        assert 'nothing to submit' in site.submit('far', **LONG)
        far.end('slurmctld')
        assert "can't be reached now" in site.call('binenc', 'cancel', 'far', code=1)
        assert 'CANCELLED' not in site.call('binenc', 'status', 'far')
        far.start('slurmctld', *far.arguments['slurmctld'])
        far.until(lambda: far.node_state() not in ('', 'down'), 'the controller does not come back')
        assert f'cancelled {array}' in site.call('binenc', 'cancel', 'far')
        wait_for(lambda: gone(site, who), PATIENCE, 'that its job is known to have ended')
        values = dict(SMALL, model='bin_enc', replicate='0,1,2,3')
        assert '2 tasks are tried' in site.submit('limit', '--', '--account=lab', **values)
        runs = site.runs('limit', **values)
        wait_for(lambda: site.states(runs) == ['finished'] * 4, PATIENCE, 'the runs')
        assert len(site.plans('limit')) == 2 and not far.active()
        site.call('binenc', 'cancel', 'limit')


@by_the_clock
def test_time_limits(site):
    """Each minute a task is warned, and goes on in the next."""
    values = dict(LONG, model='bin_enc', epochs=5000)
    site.submit('limits', '--', '--time=1', **values)
    runs = site.runs('limits', **values)
    until_settled(site, 'limits')
    assert site.states(runs) == ['finished'] and site.attempts(runs[0]) > 1, site.logs('limits')


@by_the_clock
def test_preempted_with_grace(site, cluster):
    """The checkpoint that lets them continue is written between the signal and the end: no other is due."""
    values = dict(LONG, epochs=5000, log_every=5000)
    site.submit('preempted', **values)
    runs = site.runs('preempted', **values)
    for run in runs:
        wait_for(lambda run=run: training(site, [run]), PATIENCE, 'a training')
    cluster.run('sbatch', '--partition=high', '--gres=gpu:2', '--output=/dev/null', '--wrap=sleep 20')
    wait_for(lambda: 'DUE TO PREEMPTION' in site.logs('preempted'), PATIENCE, 'the preemption')
    wait_for(lambda: {j['state'] for j in site.jobs('preempted')} == {'PENDING'}, PATIENCE, 'the requeue')
    assert 'last ended as PREEMPTED' in site.call('binenc', 'status', 'preempted')
    until_settled(site, 'preempted')
    assert site.states(runs) == ['finished'] * 2, site.logs('preempted')
    assert site.continued('preempted') == 2


@by_the_clock
def test_daemons_killed(site, cluster):
    """SIGKILL of slurmctld and of slurmd: the tasks go on, and nothing is computed twice."""
    values = dict(LONG, epochs=800, log_every=800)
    site.submit('daemons', **values)
    runs = site.runs('daemons', **values)
    wait_for(lambda: training(site, runs), PATIENCE, 'a training')
    for name in 'slurmctld', 'slurmd':
        cluster.kill_and_restart(name)
    until_settled(site, 'daemons')
    assert site.states(runs) == ['finished'] * 2, site.logs('daemons')
    assert [site.attempts(run) for run in runs] == [1, 1], site.logs('daemons')

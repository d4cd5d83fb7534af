"""Whose run is it? What is known of an owner that cannot be asked, and how one that lost its run stops.

The trials with real processes, namespaces and signals are `.ci/torture_owners.py`: here a sample of them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from binenc import locks
from binenc.locks import (
    Owned,
    acquire,
    gone,
    job_exists,
    owner_of,
    owning,
    process_start,
    release,
    this_process,
    writing,
)
from binenc.results import _copy_run
from binenc.store import run_folder
from binenc.training import Log, fit, new_training, save_checkpoint, train
from helpers import REPO, environment, stored

SAMPLE = ('a namespace inside', 'killed in a namespace', 'suspended, wakes beside another',
          'suspended, wakes after another', 'a clock ahead')


def test_trials_of_owners():
    """Five of them: see `make torture` for all."""
    done = subprocess.run([sys.executable, REPO / '.ci' / 'torture_owners.py', *SAMPLE], capture_output=True, text=True,
                          env={**environment(), 'PYTHONPATH': str(REPO)}, timeout=600)
    if 'may not make' in done.stdout:
        print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'tried, 0 lost, 0 computed twice, 0 silently wrong, 0 tracebacks, 0 left behind' in done.stdout


ME = this_process()
DEAD = ME | {'start': 'long ago'}
HERE, THERE = {'host': ME['host']}, {'host': 'another'}
OWNERS = {  # what the lock says -> whether its owner is known to have ended
    'we': (ME, False),
    'a process that ended': (DEAD, True),
    'on another host': (DEAD | THERE, False),
    'before another start of this host': (DEAD | {'boot': 'another'}, False),
    'in another namespace': (DEAD | {'namespace': 'pid:[1]'}, False),
    'in a namespace that is not known': (DEAD | {'namespace': None}, False),
    'in this job, before its node failed': (DEAD | THERE | {'cluster': 'c', 'job': '7', 'restart': None}, True),
    'in this job, on another node': (DEAD | THERE | {'cluster': 'c', 'job': '7', 'restart': '1'}, False),
    "in a job of that number in another cluster": (DEAD | THERE | {'cluster': 'd', 'job': '7', 'restart': None}, False),
    'written by an earlier version': ({'host': ME['host'], 'pid': 1, 'start': '1', 'job': None}, False),
}


@pytest.mark.parametrize('name', OWNERS)
def test_who_is_gone(name, monkeypatch, slurm_says):
    """Only one who can be looked up where we are is dead at once; squeue does not answer here."""
    slurm_says(squeue='exit 1')
    for variable, value in {'CLUSTER_NAME': 'c', 'JOB_ID': '7', 'RESTART_COUNT': '1'}.items():
        monkeypatch.setenv(f'SLURM_{variable}', value)
    owner, ended = OWNERS[name]
    assert gone(owner) is ended


def test_a_process_that_may_not_be_seen_is_not_gone(monkeypatch):
    """/proc hides other users' processes on some machines."""
    monkeypatch.setattr(locks, 'process_start', lambda pid: None)
    assert not gone(ME)


def test_a_zombie_has_ended():
    with subprocess.Popen(['true'], stdout=subprocess.PIPE) as process:
        process.stdout.read()
        while not process_start(process.pid) == '':
            time.sleep(0.01)
        assert gone(ME | {'pid': process.pid, 'start': process_start(os.getpid())})


MY, OTHERS = os.getuid(), os.getuid() + 1
INVALID = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
JOBS = {  # what squeue does, whose job it is -> whether the job exists; None: not known
    'it runs': ('echo "7 RUNNING"', MY, True),
    'it is suspended': ('echo "7 SUSPENDED"', OTHERS, True),
    'it waits in the queue again': ('echo "7 PENDING"', OTHERS, False),
    'it has ended': ('echo "7 TIMEOUT"', OTHERS, False),
    'ours is not there': ('echo "70 RUNNING"', MY, False),
    "another's is not shown": ('true', OTHERS, None),
    "another's is hidden": (INVALID, OTHERS, None),
    'squeue does not answer': ('exit 1', MY, None),
    'squeue does not know our name': ('echo "squeue: error: Invalid user: 54321" >&2', MY, None),
    'the site adds a banner': ('echo "Welcome to 7 RUNNING nodes"; echo "7 FAILED"', OTHERS, False),
}


@pytest.mark.parametrize('name', JOBS)
def test_what_squeue_says(name, slurm_says):
    answer, user, exists = JOBS[name]
    slurm_says(squeue=answer)
    assert job_exists('7', None, user) is exists


def test_jobs_of_another_cluster_are_asked_for_there(slurm_says):
    asked = slurm_says(squeue='case "$*" in *--clusters=far*) echo "7 RUNNING" ;; esac',
                       scontrol='echo "ClusterName = near"')
    assert job_exists('7', 'far', MY) is True and '--clusters=far' in asked('squeue')[-1]
    assert job_exists('7', 'near', MY) is False and '--clusters' not in asked('squeue')[-1]


def test_filters_of_the_user_hide_no_job(slurm_says, monkeypatch):
    """A partition that the profile sets for squeue is not passed on: a running job would seem to have ended."""
    monkeypatch.setenv('SQUEUE_PARTITION', 'cpu')
    slurm_says(squeue='[ -n "$SQUEUE_PARTITION" ] || echo "7 RUNNING"')
    assert job_exists('7', None, MY) is True


@pytest.mark.parametrize('user, ended', [(MY, False), (OTHERS, None)])
def test_one_question_for_all_jobs_of_a_user(slurm_says, monkeypatch, user, ended):
    """Also where squeue takes longer than its answers are kept."""
    asked = slurm_says(squeue='echo "7 RUNNING"; echo "8 RUNNING"')
    monkeypatch.setattr(locks.time, 'monotonic', lambda: 1000. + 40 * len(asked('squeue')))
    assert [job_exists(job, None, user) for job in '7879'] == [True, True, True, ended]
    assert len(asked('squeue')) == 1


def lock_of(owner, folder, age=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'lock').write_text(json.dumps(owner), encoding='utf-8')
    os.utime(folder / 'lock', (time.time() - age,) * 2)


@pytest.mark.parametrize('age', [locks.SILENT + 60, -locks.SILENT - 60], ids=['silent', 'the clock was set back'])
def test_a_silent_owner_is_watched_and_then_replaced(age, tmp_path, monkeypatch):
    """And not if it gives a sign of life while it is watched."""
    monkeypatch.setattr(locks, 'WATCH', 0.1)
    lock_of(DEAD | THERE, tmp_path, age)
    assert owner_of(tmp_path) is None
    [note] = acquire(tmp_path, 'run a')
    assert note == f'run a is taken over: process {os.getpid()} on another has given no sign of life for 10 minutes'
    release(tmp_path)
    lock_of(DEAD | THERE, tmp_path, age)
    monkeypatch.setattr(locks.time, 'sleep', lambda _: os.utime(tmp_path / 'lock'))
    with pytest.raises(Owned, match='^run a is being computed by process .* on another: wait for it'):
        acquire(tmp_path, 'run a')


def test_a_touched_lock_of_one_that_has_ended(tmp_path, monkeypatch):
    """Its time is no sign of life: whoever wrote there last may have touched it late."""
    guarded = locks.guarded

    def touched(*words):
        os.utime(tmp_path / 'lock', (time.time() + 1,) * 2)
        return guarded(*words)

    ended = subprocess.Popen(['true'])
    ended.wait()
    lock_of(this_process() | {'pid': ended.pid}, tmp_path, 0)
    monkeypatch.setattr(locks, 'guarded', touched)
    assert acquire(tmp_path, 'it') == []
    release(tmp_path)


def test_an_owner_gives_signs_of_life_whatever_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'BEAT', 0.01)
    with owning(tmp_path, 'it'):
        os.utime(tmp_path / 'lock', (0, 0))
        while (tmp_path / 'lock').stat().st_mtime == 0:
            time.sleep(0.01)


def test_one_that_lost_its_run_writes_nothing(tiny, tmp_path, trained):
    """Neither a checkpoint nor numbers, nor progress; what the other wrote stays, to the byte."""
    from binenc.data import load_splits, make_loaders
    splits, folder = load_splits(tiny), run_folder(tiny, tmp_path)
    loaders = make_loaders(tiny, splits, 'cpu')
    training = new_training(tiny, (1, 8, 8), 10)
    with owning(folder.path, 'it'):
        save_checkpoint(folder, training)
        lock_of(ME | {'token': 'of another'}, folder.path)
        shutil.copytree(trained / tiny.experiment / 'runs' / tiny.id, folder.path, dirs_exist_ok=True)
        before = {path: path.read_bytes() for path in folder.path.iterdir()}
        for write in (lambda: fit(training, loaders, Log(folder)), lambda: save_checkpoint(folder, training)):
            with pytest.raises(Owned, match='was taken over by another process'):
                write()
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    (folder / 'lock').unlink()
    train(tiny, tmp_path)
    assert stored(tiny, tmp_path) == stored(tiny, trained)


def test_a_merge_that_lost_a_run_leaves_it(tmp_path, monkeypatch):
    """It slept while it copied, and another process computes the run now."""
    monkeypatch.setattr('binenc.results.shutil.copytree', lambda *_, **__: lock_of(ME | {'token': 'b'}, tmp_path))
    with pytest.raises(Owned, match='was taken over'):
        _copy_run(tmp_path / 'elsewhere', tmp_path)
    assert (tmp_path / 'lock').exists()


def test_nobody_takes_a_run_over_in_the_middle_of_a_write(tmp_path, monkeypatch):
    """Whoever sleeps there holds the guard: the other is told so instead of waiting for ever."""
    monkeypatch.setattr(locks, 'WATCH', 0.1)
    with owning(tmp_path, 'it'), writing(tmp_path):
        os.utime(tmp_path / 'lock', (0, 0))
        owner = ME | THERE | {'token': json.loads((tmp_path / 'lock').read_bytes())['token']}
        lock_of(owner, tmp_path, locks.SILENT + 60)
        with pytest.raises(Owned, match='is being written by a process that does not go on'):
            acquire(tmp_path, 'it')


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    folder = tmp_path / 'run'
    acquire(folder, 'it')
    shutil.rmtree(folder)
    with pytest.raises(Owned), writing(folder):
        raise AssertionError('it writes')
    release(folder)
    assert not folder.exists()


def test_a_temporary_folder_stays_while_a_copy_lives(tmp_path):
    """Its lock is the system's, so it does not matter who can see whose number; another user's is left alone."""
    from binenc.locks import IN_USE, PREFIX, remove_left_folders
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.environ['BINENC_SCRATCH'] = str(tmp_path)
        locks.own_temporary_folder.cache_clear()
        folder = locks.own_temporary_folder()
        os.write(write, os.fsencode(folder))
        time.sleep(60)
        os._exit(0)
    folder = Path(os.fsdecode(os.read(read, 1000)))
    (tmp_path / f'{PREFIX}not-locked').mkdir()
    remove_left_folders(tmp_path)
    assert folder.exists() and folder.name.startswith(PREFIX)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    remove_left_folders(tmp_path)
    assert not folder.exists()
    link = tmp_path / f'{PREFIX}link'
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / IN_USE).touch()
    link.symlink_to(tmp_path / 'precious')
    remove_left_folders(tmp_path)
    assert (tmp_path / 'precious' / IN_USE).exists()


def test_a_quota_of_cores_counts(tmp_path, monkeypatch):
    """Also one of an enclosing group, and of version 1."""
    inner = tmp_path / 'a' / 'b'
    inner.mkdir(parents=True)
    monkeypatch.setattr(locks, 'groups', lambda: [inner])
    monkeypatch.setattr(locks.os, 'sched_getaffinity', lambda _: set(range(64)))
    monkeypatch.delenv('SLURM_CPUS_ON_NODE', raising=False)
    (inner / 'cpu.max').write_text('max 100000\n', encoding='utf-8')
    assert locks.cores() == 64
    (tmp_path / 'cpu.max').write_text('250000 100000\n', encoding='utf-8')
    assert locks.cores() == 2
    (inner / 'cpu.max').unlink()
    for name, value in {'cpu.cfs_quota_us': '50000\n', 'cpu.cfs_period_us': '100000\n'}.items():
        (inner / name).write_text(value, encoding='utf-8')
    assert locks.cores() == 1

"""What would be submitted: golden text, large plans, and machines without SLURM. Nothing here needs SLURM."""

import os
import resource
import shlex
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from binenc import locks
from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS
from binenc.files import write_json
from binenc.locks import job_exists
from binenc.run import Run
from binenc.slurm import Submission, array_command, run_task, scheduler, send_all, write_plan
from binenc.store import keep_experiment, record_start, run_folder
from helpers import BINENC, REPO, TINY, settings

GOLDEN = Path(__file__).parent / 'golden' / 'submissions.txt'
PAPER = Submission(
    'cifar10',
    Path('/home/me/binenc/results'),
    Path('/home/me/binenc/datasets'),
    Path('/home/me/binenc/results/cifar10/plans/p.jsonl'),
    360,
    train_flags=('--gres=gpu:1', '--time=04:00:00'),
    figures_flags=('--time=01:00:00',),
)
CASES = {
    'the paper': PAPER,
    'settings, flags, runs side by side': replace(
        PAPER,
        runs=10,
        runs_per_task=4,
        max_parallel=2,
        settings=('epochs=5', 'lr=0.001,0.002'),
        flags=('--partition=long', '-A', 'me', '--gres=gpu:a100:1', '--time=10', '--mail-type=END'),
    ),
    'more than an array holds': replace(PAPER, runs=2500, max_array_size=1001),
    'more than an array holds, 20 at a time': replace(PAPER, runs=2500, max_array_size=1001, max_parallel=20),
    'long epochs': replace(PAPER, epoch_seconds=900.0),
}


def text(submission):
    """The commands of a submission, one a line."""
    commands = []

    def send(command):
        commands.append(shlex.join(command))
        return str(99 + len(commands))

    send_all(submission, send)
    return '\n'.join(commands)


def test_golden_text():
    """Submissions are a pure function of plan and options. After a wanted change: python tests/test_submission.py"""
    assert '\n\n'.join(f'# {name}\n{text(case)}' for name, case in CASES.items()) + '\n' == GOLDEN.read_text()


def elsewhere(*words, cwd=REPO, path=None, **variables):
    """A command without a configured SLURM; `path` replaces PATH."""
    env = {**os.environ, 'PATH': path or f'{BINENC.parent}:{os.environ["PATH"]}', **variables}
    env.pop('SLURM_CONF', None)
    return subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def without_sbatch(tmp_path):
    """A PATH with everything that submit.sh needs but SLURM."""
    for name in 'bash', 'dirname', 'git', 'env':
        (tmp_path / name).symlink_to(
            next(p for p in (Path(d) / name for d in os.environ['PATH'].split(':')) if p.exists())
        )
    (tmp_path / 'binenc').symlink_to(BINENC)
    return str(tmp_path)


def test_without_slurm(tmp_path):
    """submit.sh says so and names the command that does the same here."""
    said = elsewhere('slurm/submit.sh', 'demo', path=without_sbatch(tmp_path))
    assert said.returncode == 1 and 'binenc sweep demo' in said.stderr and 'Traceback' not in said.stderr


def test_dry_run_of_the_paper(tmp_path):
    """One array of 360 and one job after it, and no file is made."""
    said = elsewhere(
        'slurm/submit.sh', 'cifar10', '--results', tmp_path / 'r', '--dry-run', path=without_sbatch(tmp_path)
    )
    assert said.returncode == 0, said.stderr
    commands = [line for line in said.stdout.splitlines() if line.startswith('sbatch')]
    assert len(commands) == 2 and '--array=0-359 ' in commands[0] and '--dependency=afterany:JOB1' in commands[1]
    assert not (tmp_path / 'r').exists()


def test_ten_thousand_runs(tmp_path):
    """Planned, submitted (dry) and shown in under 10 s each, of processor time: what else the machine does is not
    counted."""

    def used():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    many = settings(
        experiment='many',
        lr=','.join(f'{1e-5 * (i + 1):.6g}' for i in range(125)),
        replicate=','.join(map(str, range(20))),
    )
    (tmp_path / 'results' / 'many' / 'runs' / 'x').mkdir(parents=True)
    for words, shown in ((['plan'], '10000 runs'), (['submit', '--dry-run'], '--array=0-990'), (['status'], '10000')):
        start = used()
        said = elsewhere(
            BINENC,
            words[0],
            'demo',
            *many,
            '--results',
            tmp_path / 'results',
            *words[1:],
            path=without_sbatch_once(tmp_path),
        )
        took = used() - start
        assert said.returncode == 0 and shown in said.stdout, said.stderr
        assert took < 10, f'{words[0]} took {took:.1f} s'


def without_sbatch_once(tmp_path):
    """`without_sbatch`, made at the first call."""
    folder = tmp_path / 'path'
    if not folder.exists():
        folder.mkdir()
        without_sbatch(folder)
    return str(folder)


@pytest.mark.parametrize('flags', [['--gres=gpu:a100:1'], ['--time=5'], []])
def test_user_flags_come_last(flags):
    """sbatch takes the last of two flags: the user's."""
    command = array_command(replace(PAPER, flags=tuple(flags)), 0, 360)
    options = command[: command.index('slurm/train.sbatch')]
    assert options[len(options) - len(flags) :] == flags


def test_task_of_a_cancelled_plan(tmp_path, monkeypatch, capsys):
    """A task that had not begun when its plan was cancelled computes nothing and does not return to the queue."""
    monkeypatch.setattr('binenc.slurm.scheduler', lambda *words: pytest.fail(f'asked for {words}'))
    plan = write_plan([Run(**TINY)], tmp_path / 'plans')
    plan.with_suffix('.cancelled').touch()
    assert run_task(plan, 0, 1, tmp_path / 'results', tmp_path) == 1
    assert 'was cancelled' in capsys.readouterr().out and not (tmp_path / 'results').exists()


def test_a_task_that_never_gets_through_an_epoch(tmp_path, monkeypatch, capsys):
    """It returns to the queue nine times, and then says why it does not; an epoch in between starts the count anew."""
    run, requeued = Run(**TINY), []
    plan = write_plan([run], tmp_path / 'plans')
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setattr('binenc.slurm.scheduler', lambda *words: requeued.append(words))
    monkeypatch.setattr('binenc.slurm.ignore_signals', lambda: None)
    monkeypatch.setattr('binenc.slurm._compute', lambda *_: SimpleNamespace(received=signal.SIGUSR1))
    folder = run_folder(run, tmp_path)
    record_start(folder, 'cpu')
    for n in range(12):
        write_json(folder / 'progress.json', {'epoch': int(n > 1)})
        code = run_task(plan, 0, 1, tmp_path, tmp_path)
        assert (code, len(requeued)) == ((0, n + 1) if n < 11 else (1, 11)), n
    assert requeued[0] == ('scontrol', 'requeue', '7') and 'longer time limit' in capsys.readouterr().out


def test_figures_after_every_run_failed(tmp_path, monkeypatch, capsys):
    """Nothing can be drawn: the job says so by failing, and still lists the runs."""
    from binenc import commands

    monkeypatch.setattr('binenc.slurm.submit_again', lambda e, s: [])
    e = EXPERIMENTS['demo'].override(model='bin_enc', replicate=0, experiment='lost')
    keep_experiment(e, tmp_path)
    with pytest.raises(UserError, match='no run has finished'):
        commands.finish_arrays(e, replace(PAPER, experiment='lost', results_dir=tmp_path))
    assert 'lost: 2 new of 2 runs' in capsys.readouterr().out


def test_filters_of_the_user_hide_no_job(tmp_path, monkeypatch):
    """A partition that the profile sets for squeue is not passed on: a running job would seem to have ended."""
    squeue = tmp_path / 'squeue'
    squeue.write_text('#!/bin/sh\n[ -n "$SQUEUE_PARTITION" ] || echo 7\n')
    squeue.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('SQUEUE_PARTITION', 'cpu')
    locks._own_jobs.cache_clear()
    assert job_exists('7') is True and scheduler('squeue') == '7\n'


def test_one_question_for_all_runs(tmp_path, monkeypatch):
    """Own jobs that run are asked for once; one that is not among them is asked for by itself, every time."""
    squeue, asked = tmp_path / 'squeue', tmp_path / 'asked'
    answers = 'case "$*" in *--user*) echo 7; echo 8 ;; *" 9") echo 9 ;; esac'
    squeue.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n{answers}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    locks._own_jobs.cache_clear()
    monkeypatch.setattr(locks.time, 'monotonic', lambda: 1000.0)
    assert [job_exists(job) for job in '7878'] == [True] * 4
    assert len(asked.read_text().splitlines()) == 1
    assert [job_exists(job) for job in ('9', '10', '9')] == [True, False, True]
    assert len(asked.read_text().splitlines()) == 4


if __name__ == '__main__':
    GOLDEN.write_text('\n\n'.join(f'# {name}\n{text(case)}' for name, case in CASES.items()) + '\n')

"""What is submitted and what SLURM's answers mean: golden text, large plans, and commands of SLURM that are scripts
here and answer as other people's clusters do. Nothing here needs SLURM."""

import os
import re
import resource
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from binenc import commands, slurm
from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import write_json
from binenc.locks import this_process
from binenc.run import Run
from binenc.slurm import (
    Submission,
    plan_record,
    plans_folder,
    record_plan,
    recorded,
    run_task,
    write_plan,
)
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
    'flags, runs side by side with four threads each': replace(
        PAPER,
        runs=10,
        runs_per_task=4,
        threads=4,
        max_parallel=2,
        flags=('--partition=long', '-A', 'me', '--gres=gpu:a100:1', '--time=10', '--nodelist=alpha', '--mail-type=END'),
    ),
    'more than an array holds': replace(PAPER, runs=2500, max_array_size=1001),
    'more than an array holds, 20 at a time': replace(PAPER, runs=2500, max_array_size=1001, max_parallel=20),
    'a per cent sign in the folder': replace(PAPER, results_dir=Path('/home/me/100%A')),
}


def text(submission):
    """The commands of a submission, one a line."""
    sent = []
    slurm._send(submission, lambda command: sent.append(shlex.join(command)) or str(99 + len(sent)), {})
    return '\n'.join(sent)


def test_golden_text():
    """Submissions are a pure function of plan and options. After a wanted change: python tests/test_submission.py"""
    now = '\n\n'.join(f'# {name}\n{text(case)}' for name, case in CASES.items())
    assert now + '\n' == GOLDEN.read_text(encoding='utf-8')


def elsewhere(*words, cwd=REPO, **variables):
    """A command without a configured SLURM."""
    env = {**os.environ, 'PATH': f'{BINENC.parent}:{os.environ["PATH"]}', **variables}
    env.pop('SLURM_CONF', None)
    return subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def laptop(tmp_path):
    """Runs a command where there is all that submit.sh needs but SLURM."""
    (path := tmp_path / 'path').mkdir()
    for program in *map(shutil.which, ('bash', 'dirname', 'git', 'env')), BINENC:
        (path / Path(program).name).symlink_to(program)
    return lambda *words: elsewhere(*words, PATH=str(path))


def test_without_slurm(laptop, tmp_path):
    """submit.sh says so and names the command that does the same here; a dry run shows the paper's one array of 360 and
    one job after it. No file is made."""
    said = laptop('slurm/submit.sh', 'demo')
    assert said.returncode == 1 and 'binenc sweep' in said.stderr and 'Traceback' not in said.stderr
    said = laptop('slurm/submit.sh', 'cifar10', '--results', tmp_path / 'r', '--dry-run')
    commands = [line for line in said.stdout.splitlines() if line.startswith('sbatch')]
    assert len(commands) == 2 and '--array=0-359 ' in commands[0] and '--dependency=afterany:JOB1' in commands[1]
    assert not (tmp_path / 'r').exists()


@pytest.mark.parametrize('words, shown', [(['plan'], '10000 runs'), (['submit', '--dry-run'], '--array=0-990'),
                                          (['status'], '10000')])
def test_ten_thousand_runs(laptop, tmp_path, words, shown):
    """Planned, submitted (dry) and shown in under 10 s each, of processor time."""
    many = settings(experiment='many', lr=','.join(f'{1e-5 * (i + 1):.6g}' for i in range(125)),
                    replicate=','.join(map(str, range(20))))
    (tmp_path / 'results' / 'many' / 'runs' / 'x').mkdir(parents=True)
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    said = laptop(BINENC, words[0], 'demo', *many, '--results', tmp_path / 'results', *words[1:])
    assert said.returncode == 0 and shown in said.stdout, said.stderr
    assert sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before < 10


@pytest.fixture
def planned(tmp_path):
    """Makes a submitted plan of runs; returns it."""

    def plan(*runs, **values):
        path = write_plan(list(runs), plans_folder(runs[0].experiment, tmp_path / 'results'))
        places = {'results_dir': str(tmp_path / 'results'), 'data_dir': str(tmp_path), 'plan': str(path)}
        record_plan(path, experiment=runs[0].experiment, **places, **values)
        return path

    return plan


def test_task_of_a_cancelled_plan(planned, monkeypatch, capsys, tmp_path):
    """A task that had not begun when its plan was cancelled computes nothing and does not return to the queue."""
    monkeypatch.setattr('binenc.slurm.scheduler', lambda *words: pytest.fail(f'asked for {words}'))
    assert run_task(planned(Run(**TINY), cancelled=True), 0) == 1
    assert 'was cancelled' in capsys.readouterr().out and not list(tmp_path.rglob('job.json'))


@pytest.fixture
def as_job(monkeypatch):
    """This process seems to be a job, and what it asks SLURM for is kept."""
    asked = []
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setattr('binenc.slurm.scheduler', lambda *words: asked.append(words))
    monkeypatch.setattr('binenc.slurm.signal.signal', lambda *_: None)
    return asked


def test_a_task_that_never_gets_through_an_epoch(planned, as_job, monkeypatch, capsys, tmp_path):
    """It returns to the queue nine times, and then says why it does not; an epoch in between starts the count anew."""
    run = Run(**TINY)
    plan, folder = planned(run), run_folder(run, tmp_path / 'results')
    monkeypatch.setattr('binenc.slurm.Sweep', lambda *_, **__: lambda: SimpleNamespace(outcome={}))
    record_start(folder, 'cpu')
    for n in range(12):
        write_json(folder / 'progress.json', {'epoch': int(n > 1)})
        code = run_task(plan, 0)
        assert (code, len(as_job)) == ((0, n + 1) if n < 11 else (1, 11)), n
    assert as_job[0] == ('scontrol', 'requeue', '7') and 'longer time limit' in capsys.readouterr().out


def test_a_run_folder_that_cannot_be_written(planned, as_job, capsys, tmp_path):
    """Its run fails; the other of the same task is computed, and the task does not come back for the first."""
    bad, good = Run(**TINY, replicate=1), Run(**TINY)
    run_folder(bad, tmp_path / 'results').path.parent.mkdir(parents=True)
    run_folder(bad, tmp_path / 'results').path.write_text('a file where a folder should be', encoding='utf-8')
    assert run_task(planned(bad, good, runs_per_task=2), 0) == 1
    said = capsys.readouterr().out
    assert run_folder(good, tmp_path / 'results').finished and f'{bad.id}: failed' in said, said
    assert not as_job


def test_a_task_that_may_not_be_requeued(planned, as_job, monkeypatch, capsys):
    """It says that the job that draws goes on with its runs."""

    refused = UserError('scontrol refused: Requested operation is presently disabled')
    monkeypatch.setattr('binenc.slurm.scheduler', Mock(side_effect=refused))
    monkeypatch.setattr('binenc.slurm.Sweep', lambda *_, **__: lambda: SimpleNamespace(outcome={}))
    assert run_task(planned(Run(**TINY)), 0) == 0
    said = capsys.readouterr().out
    assert 'asks to go back' in said and 'presently disabled' in said and 'the job that draws submits' in said


def test_figures_after_every_run_failed(tmp_path, monkeypatch, capsys):
    """Nothing can be drawn: the job says so by failing, and still lists the runs."""
    monkeypatch.setattr('binenc.commands.submit_again', lambda e, s: [])
    e = EXPERIMENTS['demo'].override(model='bin_enc', replicate=0, experiment='lost')
    keep_experiment(e, tmp_path)
    with pytest.raises(UserError, match='no run has finished'):
        commands.finish_arrays(e, replace(PAPER, experiment='lost', results_dir=tmp_path))
    assert 'lost: 2 new of 2 runs' in capsys.readouterr().out


# Other people's clusters: each command of SLURM is a script that answers as it is told and notes what it was asked

ONE = dict(model='bin_enc', replicate='0,1', lr='1e-3', **TINY)
RUNS = expand(EXPERIMENTS['demo'].override(**{**TINY, 'model': 'bin_enc', 'replicate': [0, 1], 'lr': [1e-3]}))


ARRAY = 'case "$*" in *--array*) {} ;; *) {} ;; esac'


def in_queue(plan, state='PENDING', reason='Priority', tasks='0 1', job=86):
    """squeue's lines of a plan's tasks, in the shell's words."""
    return f'for i in {tasks}; do echo "binenc|{job}|$i|{state}|{reason}|{plan}:0"; done'


def submit(command, tmp_path, *words, **values):
    return command('submit', 'demo', *settings(**{**ONE, **values}), *words, cwd=tmp_path)


def only_plan(tmp_path):
    (plan,) = plans_folder('demo', tmp_path / 'results').glob('*.jsonl')
    return plan


@pytest.mark.parametrize('way', ['SBATCH_CLUSTERS', 'SLURM_CLUSTERS', '--cluster=far', '-Mfar'])
def test_another_cluster(slurm_says, command, monkeypatch, tmp_path, way):
    """It is kept with the jobs: everything else asks there, and the figures go there too."""
    asked = slurm_says(sbatch=ARRAY.format('echo "86;far"', 'echo "87;far"'))
    flags = ['--', way] if way.startswith('-') else []
    monkeypatch.setenv('X' if flags else way, 'far')
    done = submit(command, tmp_path, *flags)
    assert done.returncode == 0 and 'job 86;far' in done.stdout, done.stdout + done.stderr
    array, figures = asked('sbatch')
    assert (way if flags else '-M far') in array and '--dependency=afterany:86 -M far' in figures
    plan = only_plan(tmp_path)
    asked = slurm_says(squeue=f'case "$*" in *"-M far"*) echo "CLUSTER: far"; {in_queue(plan)} ;; esac')
    assert 'queued             2' in command('status', 'demo', cwd=tmp_path).stdout
    assert 'nothing to submit' in submit(command, tmp_path).stdout
    assert 'cancelled 86;far' in command('cancel', 'demo', cwd=tmp_path).stdout
    assert asked('scancel') == ['scancel -M far 86']


BANNERS = ('echo "*** Welcome to Cluster 7 | maintenance | on 2026-12-01 ***"; echo; echo 12 users; '
           'printf "\\033[1mnews\\033[0m: 86 of 100 nodes\\r\\n"; ') # in bold, and with a line end of Windows


def test_banners_on_standard_output(slurm_says, command, tmp_path):
    """The lines that are an answer are found among others, which are shown."""
    slurm_says(sbatch=BANNERS + ARRAY.format('echo 86', 'echo 87'), squeue=BANNERS)
    done = submit(command, tmp_path)
    assert done.returncode == 0 and '(job 86)' in done.stdout and 'Cluster 7' in done.stderr, done.stdout + done.stderr
    plan = only_plan(tmp_path)
    slurm_says(squeue=BANNERS + in_queue(plan))
    assert 'queued             2' in command('status', 'demo', cwd=tmp_path).stdout
    assert 'cancelled 86' in command('cancel', 'demo', cwd=tmp_path).stdout


@pytest.mark.parametrize('answer', ['true', 'echo 86; echo 3', 'echo Submitted batch job 86', 'exec sleep 9'])
def test_an_answer_that_is_not_clear(slurm_says, command, monkeypatch, tmp_path, answer):
    """What may have been queued is looked for and cancelled: nothing is left."""
    monkeypatch.setattr('binenc.slurm.PATIENCE', 1)
    plan = f'$(ls {tmp_path}/results/demo/plans/*.jsonl)'
    asked = slurm_says(sbatch=answer, squeue=in_queue(plan))
    monkeypatch.setattr('binenc.slurm.queued', lambda *_: {})
    done = submit(command, tmp_path)
    assert done.returncode == 1 and 'Nothing is submitted' in done.stderr, done.stdout + done.stderr
    assert asked('scancel') == ['scancel 86'] and not list(plans_folder('demo', tmp_path / 'results').iterdir())


def test_what_cannot_be_taken_back_is_kept_for_cancel(slurm_says, command, monkeypatch, tmp_path):
    """A controller that goes away in the middle."""
    slurm_says(sbatch=ARRAY.format('echo 86', 'exit 1'), scancel='echo "Unable to contact slurm controller"; exit 1')
    done = submit(command, tmp_path)
    assert done.returncode == 1 and 'repeat "binenc cancel demo"' in done.stderr, done.stderr
    asked = slurm_says(squeue=in_queue(only_plan(tmp_path)))
    assert 'cancelled 86' in command('cancel', 'demo', cwd=tmp_path).stdout and asked('scancel')[-1] == 'scancel 86'


def test_a_limit_on_submissions(slurm_says, command, tmp_path):
    """As many tasks as SLURM takes are submitted, and the job that draws submits the rest."""
    limit = 'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1'
    few = f'case "$*" in *--array=0-[01]" "*) echo 86 ;; *) {limit} ;; esac'
    asked = slurm_says(sbatch=ARRAY.format(few, 'echo 87'))
    done = submit(command, tmp_path, replicate='0,1,2,3,4')
    assert done.returncode == 0 and '2 tasks are tried' in done.stdout, done.stdout + done.stderr
    plan = only_plan(tmp_path)
    assert plan_record(plan)['jobs'] == {'86': [0, 2]} and len(plan.read_text(encoding='utf-8').splitlines()) == 5
    shown = command('status', 'demo', cwd=tmp_path).stdout
    assert 'not submitted      5' in shown, shown
    again = slurm.submit_again(EXPERIMENTS['demo'].override(
        **{**TINY, 'model': 'bin_enc', 'replicate': [0, 1, 2, 3, 4], 'lr': [1e-3]}), recorded(plan))
    assert again == ['86', '87'] and '--array=0-0 ' in asked('sbatch')[-2] # one of three


@pytest.mark.parametrize('said', [
    'QOSMaxSubmitJobPerUserLimit', 'Slurm temporarily unable to accept job, sleeping and retrying',
    'Slurm job queue full, sleeping and retrying'])
def test_a_queue_that_is_full(slurm_says, command, monkeypatch, tmp_path, said):
    """SLURM's own words, and how to go on, also where sbatch does not end."""
    monkeypatch.setattr('binenc.slurm.PATIENCE', 1)
    slurm_says(sbatch=f'echo "sbatch: error: {said}" >&2; {"exec sleep 9" if "sleeping" in said else "exit 1"}')
    done = submit(command, tmp_path)
    assert done.returncode == 1 and said in done.stderr and '--runs-per-task N' in done.stderr, done.stderr
    assert 'Nothing is submitted' in done.stderr


def test_flags_for_training_are_not_for_the_figures(slurm_says, command, monkeypatch, tmp_path):
    """They choose nodes; BINENC_FIGURES_FLAGS wins there."""
    asked = slurm_says(sbatch=ARRAY.format('echo 86', 'echo 87'))
    monkeypatch.setenv('BINENC_FIGURES_FLAGS', '--account=drawers --partition=cpu')
    submit(command, tmp_path, '--', '--partition=high', '-w', 'alpha', '-Cgpu80', '--qos=long', '--account', 'me')
    array, figures = asked('sbatch')
    assert all(word in array for word in ('--partition=high', '-w alpha', '-Cgpu80', '--qos=long'))
    assert not any(word in figures for word in ('high', 'alpha', 'gpu80', 'long'))
    assert figures.index('--account me') < figures.index('--account=drawers') and '--partition=cpu' in figures


@pytest.mark.parametrize('state, reason, shown', [
    ('PENDING', 'Priority', 'queued .* job 86_0 .Priority.$'),
    ('PENDING', 'DependencyNeverSatisfied', 'queued .*what it waits for has failed'),
    ('PENDING', 'QOSMaxWallDurationPerJobLimit', 'queued .*shorter --time'),
    ('PENDING', 'PartitionTimeLimit', 'queued .*shorter --time'),
    ('PENDING', 'QOSMaxGRESPerJob', 'queued .*fewer CPUs, GPUs'),
    ('PENDING', 'JobHeldUser', 'queued .*scontrol release'),
    ('PENDING', 'JobHeldAdmin', 'queued .*ask them'),
    ('SUSPENDED', 'None', 'suspended .* job 86_0$'),
    ('RUNNING', 'None', 'starting .* job 86_0$'),
    ('CONFIGURING', 'None', 'starting .* job 86_0$'),
])
def test_what_status_says_of_a_job(slurm_says, command, planned, tmp_path, state, reason, shown):
    """squeue's reason, in words where it is not a matter of waiting; one question to SLURM."""
    keep_experiment(EXPERIMENTS['demo'], tmp_path / 'results')
    asked = slurm_says(squeue=in_queue(planned(*RUNS), state, reason))
    said = command('status', 'demo', *settings(**ONE), cwd=tmp_path).stdout
    assert re.search(shown, said.replace('\n', ' $ ').replace(' $ ', ' ', 2).split(' $ ')[0]), said
    assert len(asked('squeue')) == 1


@pytest.mark.parametrize('state, shown', [('SUSPENDED', 'suspended'), ('RUNNING', 'running')])
def test_what_a_job_computes(slurm_says, command, planned, tmp_path, state, shown):
    """A run that a suspended job computes is not running. The listing tells that a job on another host works: its lock
    is no reason to ask again."""
    keep_experiment(EXPERIMENTS['demo'], tmp_path / 'results')
    asked = slurm_says(squeue=in_queue(planned(*RUNS), state, 'None'))
    for run in RUNS:
        owner = this_process() | {'host': 'node7', 'job': '87', 'cluster': 'far', 'restart': '0'}
        write_json(run_folder(run, tmp_path / 'results') / 'lock', owner)
    said = command('status', 'demo', *settings(**ONE), cwd=tmp_path).stdout
    assert f'{shown:<14}     2' in said and ('running' in said) == (shown == 'running'), said
    assert len(asked('squeue') + asked('scontrol')) == 1


@pytest.mark.parametrize('last', ['slurm/cluster.sh: line 5: module: command not found', 'srun: cannot find GPU'])
def test_tasks_that_died_before_a_run_began(slurm_says, command, planned, tmp_path, last):
    """They are shown with the log's last line; the job that draws submits them again where others did begin."""
    keep_experiment(EXPERIMENTS['demo'], tmp_path / 'results')
    plan = planned(*RUNS, jobs={'179': [0, 2]})
    logs = tmp_path / 'results' / 'demo' / 'logs'
    logs.mkdir()
    (logs / '179_0.out').write_text(f'hello\n{last}\n', encoding='utf-8')
    words = *settings(**ONE), '--failed'
    said = command('status', 'demo', *words, cwd=tmp_path).stdout
    assert f'{RUNS[0].id}: submitted as job 179_0, ended before it began: see' in said
    assert last in said and 'logs/179_0.out' in said and RUNS[1].id not in said
    slurm_says(sbatch=ARRAY.format('echo 180', 'echo 181'))
    s = recorded(plan)
    assert slurm.submit_again(EXPERIMENTS['demo'], s) == [] # none began: it would be no better
    write_json(run_folder(RUNS[1], s.results_dir) / 'job.json', {'job': '179_1', 'starts': 1, 'log': ''})
    assert slurm.to_continue(RUNS, s.results_dir) == RUNS


@pytest.mark.parametrize('record, log, words', [
    ({'starts': 30, 'epoch': 40, 'in_vain': 9}, '', ['given up after 10 starts']),
    ({'starts': 1}, 'task starts: 5_0\nslurmstepd: error: Detected 1 oom_kill event in StepId=5.batch',
     ['OUT_OF_MEMORY', '--mem-per-cpu', '5_0.out']),
])
def test_why_a_run_is_given_up(slurm_says, planned, tmp_path, record, log, words):
    """Ten starts in a row, in however many jobs, completed no epoch; or what to ask for."""
    s = recorded(planned(RUNS[0], jobs={'5': [0, 1]}))
    (tmp_path / '5_0.out').write_text(log, encoding='utf-8')
    folder = run_folder(RUNS[0], s.results_dir)
    write_json(folder / 'job.json', {'job': '5_0', 'log': str(tmp_path / '5_0.out'), **record})
    write_json(folder / 'progress.json', {'epoch': 31})
    assert slurm.to_continue(RUNS[:1], s.results_dir) == []
    [said] = commands.failed_lines([(RUNS[0], 'interrupted', '')], s.results_dir)
    assert all(word in said for word in words), said


@pytest.mark.parametrize('broken', ['squeue', 'scancel'])
def test_cancel_while_the_controller_is_down(slurm_says, command, planned, tmp_path, broken):
    """Both is done, or neither: jobs cancelled and plan marked. Status uses the word; other settings are possible."""
    keep_experiment(EXPERIMENTS['demo'], tmp_path / 'results')
    plan = planned(*RUNS, jobs={'86': [0, 2]})
    down = 'echo "Unable to contact slurm controller" >&2; exit 1'
    slurm_says(**{'squeue': in_queue(plan)} | {broken: down})
    done = command('cancel', 'demo', cwd=tmp_path)
    assert done.returncode == 1 and 'Unable to contact' in done.stderr and not plan_record(plan).get('cancelled')
    slurm_says(squeue=in_queue(plan))
    assert command('cancel', 'demo', cwd=tmp_path).returncode == 0 and plan_record(plan)['cancelled']
    slurm_says()
    assert 'CANCELLED' in command('status', 'demo', *settings(**ONE), cwd=tmp_path).stdout
    slurm_says(sbatch=ARRAY.format('echo 87', 'echo 88'))
    assert submit(command, tmp_path, epochs=ONE['epochs'] + 1).returncode == 0


@pytest.mark.parametrize('kind, place', [('folder', 'pictures'), ('file', 'pictures.csv')])
def test_images_at_a_relative_place(slurm_says, command, tmp_path, kind, place):
    """Jobs run in the repository: what they would not find is refused, with the name that they would."""
    (tmp_path / 'pictures.csv').touch()
    for name in 'train/a', 'train/b', 'test/a', 'test/b':
        (tmp_path / 'pictures' / name).mkdir(parents=True)
    asked = slurm_says(sbatch=ARRAY.format('echo 86', 'echo 87'))
    done = submit(command, tmp_path, '--results', 'two\nlines')
    assert done.returncode == 1 and 'rename the folder' in done.stderr, done.stdout + done.stderr
    done = submit(command, tmp_path, dataset=f'{kind}:{place}')
    assert done.returncode == 1 and f'dataset={kind}:{tmp_path}/{place}' in done.stderr, done.stdout + done.stderr
    assert not asked('sbatch')
    done = submit(command, tmp_path, dataset=f'{kind}:{tmp_path}/{place}')
    assert done.returncode == 0 and len(asked('sbatch')) == 2, done.stdout + done.stderr


def test_processors_of_a_task(slurm_says, command, tmp_path):
    """Two runs side by side with four threads each."""
    asked = slurm_says(sbatch=ARRAY.format('echo 86', 'echo 87'))
    submit(command, tmp_path, '--runs-per-task', 2, threads=4)
    assert '--cpus-per-task=8 ' in asked('sbatch')[0]


@pytest.mark.parametrize('script', ['submit.sh', 'measure.sbatch'])
def test_lines_of_cluster_sh_may_fail(tmp_path, script):
    """As conda's activation does: unset variables, a command that fails, in a shell that would end for it.
    Where the command is not installed, one sentence names the extra that it needs."""
    shutil.copytree(REPO / 'slurm', tmp_path / 'slurm')
    with (tmp_path / 'slurm' / 'cluster.sh').open('a', encoding='utf-8') as file:
        file.write('[ -n "$NOT_SET" ] && module load cuda\nfalse\n')
    done = elsewhere('bash', '-eu', f'slurm/{script}', 'nothing', cwd=tmp_path)
    assert 'unknown experiment' in done.stderr, done.stderr
    done = elsewhere('bash', f'slurm/{script}', 'nothing', cwd=tmp_path, PATH='/usr/bin:/bin')
    assert done.returncode == 1 and "pip install '.[lab]'" in done.stderr


@pytest.mark.parametrize('shell', ['sh', 'tcsh', 'fish', 'zsh'])
def test_the_line_for_measuring_works_in_any_login_shell(shell, slurm_says, tmp_path):
    """Of which some cannot source a file of bash."""
    if not shutil.which(shell):
        pytest.skip(f'{shell} is not installed')
    shutil.copytree(REPO / 'slurm', tmp_path / 'slurm')
    with (tmp_path / 'slurm' / 'cluster.sh').open('a', encoding='utf-8') as file:
        file.write('BINENC_TRAIN_FLAGS="--gres=gpu:2 --time=5"\n')
    line = re.search('^#   (bash -c .*)$', (REPO / 'slurm' / 'measure.sbatch').read_text(encoding='utf-8'), re.M)[1]
    asked = slurm_says(sbatch='echo 86')
    done = elsewhere(shell, '-c', line.replace('EXPERIMENT [OPTIONS]', 'demo --only accuracy'), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked('sbatch') == ['sbatch --gres=gpu:2 --time=5 slurm/measure.sbatch demo --only accuracy']


if __name__ == '__main__':
    GOLDEN.write_text('\n\n'.join(f'# {name}\n{text(case)}' for name, case in CASES.items()) + '\n', encoding='utf-8')

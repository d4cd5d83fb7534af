"""What a person meets at the command line: help, completion, lists, and one sentence where something is missing."""

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from binenc.commands import app, preset_line
from binenc.experiment import EXPERIMENTS
from helpers import BINENC, call, environment


@pytest.mark.parametrize('width', [50, 80, 110])
def test_help_breaks_no_name(width):
    """Neither a name at its hyphen nor, on an ordinary screen, a command's first sentence."""
    commands = typer.main.get_command(app).commands
    texts = [CliRunner().invoke(app, [*words, '--help'], terminal_width=width).stdout
             for words in ([], *([name] for name in commands))]
    assert len(texts) > 15 and not [text for text in texts if re.search(r'\w-$', text, re.M)]
    assert width < 80 or not re.search(r'[^]]\.\.\.$', texts[0], re.M), texts[0]


COMPLETE = {  # shell -> what it tells of a line
    'bash': {'COMP_WORDS': 'binenc figures fashion-w', 'COMP_CWORD': '2'},
    'zsh': {'_TYPER_COMPLETE_ARGS': 'binenc figures fashion-w'},
    'fish': {'_TYPER_COMPLETE_ARGS': 'binenc figures fashion-w', '_TYPER_COMPLETE_FISH_ACTION': 'get-args'},
}


@pytest.mark.parametrize('shell', COMPLETE)
def test_completion(shell, tmp_path):
    """The script that `--show-completion` shows names the command; with it, names of experiments are completed."""
    def answer(instruction):
        variables = environment() | {'_BINENC_COMPLETE': f'{instruction}_{shell}'} | COMPLETE[shell]
        return subprocess.run([BINENC], env=variables, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert f'_BINENC_COMPLETE=complete_{shell}' in answer('source')
    assert 'fashion-weaker' in answer('complete') and 'demo' not in answer('complete')


def test_presets(command, copy):
    """A line for each; hours come from stored seconds where there are some, and else are called an estimate."""
    (copy / 'results' / 'tiny').rename(copy / 'results' / 'demo')
    lines = command('presets', cwd=copy).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert ' 24 runs' in lines[0] and ' hours measured in 8 runs: Digits' in lines[0]
    assert all(' hours estimated: ' in line for line in lines[1:])
    assert re.search(r' 360 runs +[\d,]+ hours', preset_line(EXPERIMENTS['cifar10'], copy))


@pytest.mark.parametrize('words', [('--help',), ('plan',), ('plan', 'nope'), ('status', 'tiny', '--failed')])
def test_no_colours_in_files(words, finished, monkeypatch):
    """Whatever the environment says."""
    monkeypatch.setenv('FORCE_COLOR', '1')
    done = call(*words, cwd=finished)
    assert done.stdout + done.stderr and '\x1b' not in done.stdout + done.stderr


def test_nothing_failed(command, finished):
    assert command('status', 'tiny', '--failed', cwd=finished).stdout == 'tiny: 8 runs\nno run has failed\n'


@pytest.mark.parametrize('word', ['report', 'verify', 'explore'])
def test_nothing_stored(word, command, finished):
    """The sentence says what is stored."""
    done = command(word, 'nope', cwd=finished)
    assert done.returncode == 1 and 'nope has no results in results, where there are tiny:' in done.stderr, done.stderr


def test_no_jupyterlab(command, copy, monkeypatch):
    """One sentence, which names the notebook that is ready to be opened elsewhere."""
    monkeypatch.setitem(sys.modules, 'jupyterlab', None)
    done = command('explore', 'tiny', cwd=copy)
    assert done.returncode == 1 and done.stderr.startswith('binenc: JupyterLab is not installed')
    assert (copy / 'results' / 'tiny' / 'notebooks' / 'explore.ipynb').exists()

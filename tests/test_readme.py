"""README.md is what nbs/index.ipynb renders, nobody types its numbers, its commands are there, and so are its links."""

import configparser
import re
import shlex

import nbformat
import pytest
import typer

from binenc.commands import app
from binenc.experiment import expand
from helpers import REPO
from lint import source
from readme import COMPUTED, INDEX, computed_index, render

README = (REPO / 'README.md').read_text(encoding='utf-8')
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
PAGES = [path for path in sorted((REPO / 'nbs' / '5_findings').glob('*.ipynb')) if not path.stem[0].isdigit()]
# Digits in prose that are no results: names, versions, counts of what a sentence lists.
NAMES = re.compile(r'CIFAR-10|version \d|(?i:figure|tables?) \d(?: to \d)?|5% level|NC1|`[^`]*`|\]\([^)]*\)')
COMMANDS = [*(line.partition('#')[0].strip() for kind, text in FENCE.findall(README) if kind == 'bash'
              for line in text.splitlines()), *re.findall(r'`(binenc [^`]*)`', README)]


def test_it_is_what_the_index_renders():
    """After a change of nbs/index.ipynb or of what is stored: make readme."""
    index = computed_index()
    assert nbformat.reads(nbformat.writes(index), 4) == nbformat.read(INDEX, 4)
    assert README == render(index)


def test_it_is_read_in_three_minutes():
    """At most 1,000 words beside code and tables; each block of code names its language."""
    fences = re.findall(r'^```(.*)\n(?:.*\n)*?```$', README, re.M)
    assert fences and all(fences)
    text = re.sub(r'^(\||    ).*$', '', FENCE.sub('', README), flags=re.M)
    words = re.sub(r'!\[[^]]*\]\([^)]*\)|\]\([^)]*\)', '', text).split()
    assert len(words) <= 1000


def prose_of(notebook):
    """The text of the computed cells of a notebook, placeholders and names left out, line by line."""
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == 'code' and source(cell).startswith(COMPUTED):
            for text in re.findall(r"'''\n(.*?)'''", source(cell), re.S):
                yield from NAMES.sub('', re.sub(r'\{[^{}]*\}', '', text)).splitlines()


@pytest.mark.parametrize('notebook', [INDEX, *PAGES], ids=lambda path: path.stem)
def test_nobody_types_a_result(notebook):
    """In prose about findings every number comes out of a placeholder."""
    typed = [line for line in prose_of(notebook) if re.search(r'\d', line)]
    assert not typed


def test_numbers_beside_commands():
    """How many runs the presets have, and which versions the package asks for."""
    settings = configparser.ConfigParser()
    settings.read(REPO / 'settings.ini', encoding='utf-8')
    layer, lab = (re.search(r'torch>=([\d.]+)', settings['DEFAULT'][name])[1] for name in (
        'requirements', 'lab_requirements'))
    for text in (f'trains {len(expand("demo"))} small networks', f'an array of {len(expand("cifar10"))} runs',
                 f'Python {settings["DEFAULT"]["min_python"]}', f'PyTorch {layer} for the layer, {lab} for the exp'):
        assert text in ' '.join(README.split()), text


@pytest.mark.parametrize('line', COMMANDS)
def test_its_commands_exist(line):
    """Each command has such options, each target and script is there."""
    program, *words = shlex.split(line)
    if program == 'binenc':
        command = typer.main.get_command(app).commands[words[0]]
        assert command.make_context(words[0], words[1:]) # it raises for an option that there is not
    elif program == 'make':
        assert words[0] == '.venv/.binenc' or f'\n{words[0]}:' in (REPO / 'Makefile').read_text(encoding='utf-8')
    else:
        [path] = [word for word in (program, *words) if '/' in word]
        assert path.startswith('.venv/') or (REPO / path).exists()


def test_what_it_points_to_is_there():
    """Links, pictures and paths of README exist, and of CONTRIBUTING."""
    for text in README, (REPO / 'CONTRIBUTING.md').read_text(encoding='utf-8'):
        for target in re.findall(r'\]\((?!http)([^)#]+)\)', text):
            assert (REPO / target).exists(), target
        for path in re.findall(r'`((?:nbs|slurm|results|tests|\.ci)/[\w./-]+)`', text):
            assert (REPO / path).exists(), path

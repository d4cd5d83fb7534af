"""The explorer, opened by its command in JupyterLab and used with mouse and keys in a browser without a window."""

import shutil
import signal
import socket
import subprocess

import pytest

from browser import Page, needs_browser
from helpers import BINENC, REPO, environment, wait_for

# What each cell shows: its text, its pictures, and the choices of its drop-down menus.
CELLS = """[...document.querySelectorAll('.jp-CodeCell')].map(cell => ({
    text: [...cell.querySelectorAll('.jp-OutputArea-output pre')].map(each => each.innerText).join(' '),
    pictures: [...cell.querySelectorAll('.jp-OutputArea-output img')].map(each => each.src),
    menus: [...cell.querySelectorAll('.jp-OutputArea-output select')].map(each => [...each.options].map(x => x.label)),
})).filter(cell => cell.text || cell.pictures.length || cell.menus.length)"""
MENU = "[...document.querySelectorAll('.jp-OutputArea-output select')]"


def named(selector, text):
    """JavaScript for the element with a text."""
    return f"[...document.querySelectorAll('{selector}')].find(each => each.innerText.trim() === '{text}')"


@pytest.fixture
def lab(tmp_path):
    """Starts `binenc explore` on some results; returns the address of the page."""
    started = []

    def start(*words, **options):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        flags = ['--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=']
        command = [*options.pop('command', [BINENC]), 'explore', *map(str, words), '--', *flags]
        env = environment() | {'HOME': str(tmp_path), 'JUPYTER_CONFIG_DIR': str(tmp_path / 'config')}
        process = subprocess.Popen(command, env=env | options.pop('env', {}), stdout=subprocess.DEVNULL,
                                   stderr=(tmp_path / 'log').open('w', encoding='utf-8'), **options)
        started.append(process)
        wait_for(lambda: process.poll() is not None or f'127.0.0.1:{port}/' in (tmp_path / 'log').read_text(
            encoding='utf-8'), 120, 'JupyterLab')
        assert process.poll() is None, (tmp_path / 'log').read_text(encoding='utf-8')
        return f'http://127.0.0.1:{port}/lab/tree/explore.ipynb'

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def choose(page, menu, label):
    """Take an option of a drop-down menu."""
    page.js(f"""(() => {{
        const menu = {menu};
        menu.selectedIndex = [...menu.options].findIndex(each => each.label === '{label}');
        menu.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")


def settled(page, condition, what):
    """What the cells show once the condition holds and nothing has moved for a while."""
    before = []

    def same():
        cells, old = page.js(CELLS), before[:]
        before[:] = cells
        return cells if cells == old and condition(cells) else None

    return wait_for(same, 100, what)


@needs_browser
def test_everything_follows(lab, tmp_path):
    """Two experiments of this repository, one that keeps curves only; one more image, another class, another run."""
    results = tmp_path / 'results'
    for name in 'demo', 'cifar10-jpeg-cpu-rate':
        shutil.copytree(REPO / 'results' / name, results / name, ignore=shutil.ignore_patterns('figures', 'runs'))
    with Page(lab('demo', '--results', results), tmp_path) as page:
        page.click(named('.lm-MenuBar-itemLabel', 'Run'), 120)
        page.click(named('.lm-Menu-itemLabel', 'Run All Cells'))
        first = settled(page, lambda cells: len(cells) == 8, 'eight cells')
        page.picture(tmp_path / 'first.png')
        assert first == 0

"""The explorer, opened by its command in JupyterLab and used in a browser without a window; and many classes in it."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest

from browser import Page, needs_browser
from helpers import BINENC, REPO, TINY, definitions_of, environment, settings, wait_for

BOTH = 'demo', 'cifar10-jpeg-cpu-rate'  # one with weights and snapshots, one with its tables only
# What each cell that shows something shows: its text, pictures and drop-down menus.
CELLS = """[...document.querySelectorAll('.jp-CodeCell')].map(cell => ({
    text: [...cell.querySelectorAll('.jp-OutputArea pre, .widget-html-content')].map(x => x.innerText).join(' '),
    pictures: [...cell.querySelectorAll('.jp-OutputArea img')].map(x => x.src),
    menus: [...cell.querySelectorAll('.jp-OutputArea select')].map(menu => [...menu.options].map(x => x.value)),
})).filter(cell => cell.text || cell.pictures.length || cell.menus.length)"""
MENUS = "document.querySelectorAll('.jp-OutputArea .widget-dropdown select')"
KERNEL = "!!document.querySelector('.jp-Toolbar-kernelName')?.innerText.startsWith('Python')"
IDLE = "!!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"


def named(selector, text):
    """JavaScript for the element with a text."""
    return f"[...document.querySelectorAll('{selector}')].find(each => each.innerText.trim() === '{text}')"


@contextmanager
def explorer(folder):
    """The explorer in JupyterLab, all cells executed."""
    for name in BOTH:
        shutil.copytree(REPO / 'results' / name, folder / 'results' / name,
                        ignore=shutil.ignore_patterns('figures', 'runs'))
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    words = 'explore', 'demo', '--', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token='
    log = folder / 'log'
    with log.open('w', encoding='utf-8') as errors:
        variables = environment() | {'HOME': str(folder)}
        lab = subprocess.Popen([BINENC, *words], cwd=folder, env=variables, stderr=errors)
    try:
        wait_for(lambda: lab.poll() is not None or f'127.0.0.1:{port}/' in log.read_text(encoding='utf-8'), 300)
        with Page(f'http://127.0.0.1:{port}/lab/tree/explore.ipynb', folder) as page:
            wait_for(lambda: page.js(f'{KERNEL} && {IDLE}'), 300, 'a kernel')
            wait_for(lambda: run_all(page), 300, 'the first cell')
            yield page
    finally:
        lab.send_signal(signal.SIGTERM)
        lab.wait(60)


def run_all(page):
    """Choose it from the menu; whether the kernel began, which it does not if it was not quite there yet."""
    page.click(named('.lm-MenuBar-itemLabel', 'Run'))  # it closes a menu that was left open
    time.sleep(2)
    if page.js(f"!!{named('.lm-Menu-itemLabel', 'Run All Cells')}"):
        page.click(named('.lm-Menu-itemLabel', 'Run All Cells'))
    end = time.monotonic() + 10
    while page.js(IDLE) and time.monotonic() < end:
        time.sleep(0.1)
    return not page.js(IDLE)


def settled(page, condition):
    """What the cells show once the condition holds, the kernel is idle and nothing moves."""
    before = []

    def same():
        time.sleep(2)
        cells, old = page.js(CELLS), before[:]
        before[:] = cells
        return cells if page.js(IDLE) and cells == old and condition(cells) else None

    return wait_for(same, 300, 'what is wanted')


def choose(page, menu, value):
    """Take an option of a drop-down menu."""
    page.js(f"""(() => {{
        const menu = {MENUS}[{menu}];
        menu.selectedIndex = [...menu.options].findIndex(each => each.value.startsWith('{value}'));
        menu.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")


@pytest.fixture
def page(tmp_path):
    with explorer(tmp_path) as opened:
        yield opened


@needs_browser
def test_everything_follows(page, tmp_path):
    """Another run, another image, another experiment; nothing is shown twice."""
    first = settled(page, lambda cells: len(cells) == 8)
    page.picture(tmp_path / 'explorer.png')
    assert [len(cell['pictures']) for cell in first] == [0, 1, 1, 2, 1, 1, 1, 1]
    assert first[0]['menus'][0] == ['cifar10-jpeg-cpu-rate (curves only)', 'demo']
    choose(page, 1, 'no_pen-lr0.001-r1')
    second = settled(page, lambda cells: cells[0]['text'] != first[0]['text'])
    for before, now in list(zip(first, second))[1:6]:
        assert not {*before['pictures']} & {*now['pictures']}
    page.click("document.querySelectorAll('.noUi-handle')[1]")
    page.press('ArrowRight')
    third = settled(page, lambda cells: cells != second)
    assert [now == before for before, now in zip(second, third)] == [True] * 4 + [False] + [True] * 3
    choose(page, 0, 'cifar10-jpeg-cpu-rate')
    last = settled(page, lambda cells: len(cells) == 3)
    assert 'curves only' in last[0]['text'] and [len(cell['pictures']) for cell in last] == [0, 1, 1]
    for cells in first, second, third, last:
        pictures = [picture for cell in cells for picture in cell['pictures']]
        assert len(pictures) == len({*pictures})


@pytest.mark.parametrize('classes, nodes', [(2, 1), (300, 4)])
def test_few_and_many_classes(classes, nodes, command, tmp_path, monkeypatch):
    """Every section has its picture, and its widgets offer every class."""
    shown, draw = [], np.random.default_rng(0)
    x, y = draw.integers(0, 256, (3 * classes, 8, 8), np.uint8), np.repeat(range(classes), 3)
    np.savez(tmp_path / 'many.npz', x=x, y=y)
    values = dict(TINY, dataset='file:many.npz', experiment='many', model='bin_enc', replicate=0, lr=1e-3, nodes=nodes,
                  val_fraction=0, selection='train', batch_size=32)
    done = command('sweep', 'demo', *settings(**values), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('IPython.display.display', shown.append)
    here = dict(experiment='many', results_dir='results', data_dir='.')
    names = definitions_of('explore.ipynb', '__notebook__', here)
    assert len(shown) == 8 - bool((names['network']()[1].off == 0).all()) # there may be none on a wrong vertex
    assert len(names['classes']()[0].options) == len(names['epochs_nodes_classes']()[-1].options) == classes

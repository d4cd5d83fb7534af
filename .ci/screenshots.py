"""Pictures of what a newcomer looks at: python .ci/screenshots.py FOLDER [EXPERIMENT].

README as rendered, an experiment's report (also in print), the book if it is built in _docs/, each on a desk and on a
phone; and the explorer after five clicks. Needs chromium, and nothing from the internet.
"""
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
import websocket
from nbconvert.filters import markdown2html

from binenc.execute import make_report

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / 'tests'))
from browser import CHROMIUM, OPTIONS  # noqa: E402

DESK, PHONE, PAPER = (1280, 1, False), (390, 2, True), (720, 1, False)  # width, pixels for each, whether it is a phone
LONGEST = 6000  # of a picture, in the page's own pixels
README = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<base href="{base}"><style>body {{ max-width: 56rem; margin: auto; padding: 1rem; font: 16px/1.5 sans-serif }}
img {{ max-width: 100% }} table {{ display: block; overflow-x: auto; border-collapse: collapse }}
td, th {{ border: 1px solid #d0d7de; padding: 6px 13px }} a {{ color: #0969da }} .anchor-link {{ display: none }}
pre {{ background: #f6f8fa; padding: 1rem; overflow-x: auto }}</style></head><body>{text}</body></html>"""
IDLE = 'document.querySelector(".jp-Notebook-ExecutionIndicator[data-status=idle]") !== null'
CLICKS = (  # a menu's words or a selector, and which of what it finds; then a key
    ('Run', 0, ''), ('Run All Cells', 0, ''), ('.widget-dropdown select', 0, 'ArrowDown'), ('.noUi-handle', 0, 'Home'),
    ('.widget-dropdown select', 1, 'ArrowDown'))
SETTINGS = {  # of JupyterLab: cells below the window are drawn too, and nothing is asked of the internet
    'notebook-extension/tracker': {'windowingMode': 'none'},
    'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
}
PLACE = """((words, which) => {{
    const menu = [...document.querySelectorAll('.lm-MenuBar-item, .lm-Menu-item:not(.lm-mod-disabled)')];
    const named = menu.filter(x => x.textContent.startsWith(words));
    const found = named.length ? named[0] : words.includes('.') ? document.querySelectorAll(words)[which] : null;
    if (!found) return null;
    if (!named.length) found.scrollIntoView({{block: 'center'}});
    const box = found.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
}})({words}, {which})"""


class Browser:
    """A browser without a window, asked over its own protocol."""

    def __init__(self, process, folder):
        port = folder / 'DevToolsActivePort'
        while not (port.exists() and port.read_text(encoding='utf-8').strip()):
            assert process.poll() is None, 'chromium has ended'
            time.sleep(0.1)
        address = f'http://127.0.0.1:{port.read_text(encoding="utf-8").split()[0]}/json'
        [page] = [tab for tab in requests.get(address, timeout=30).json() if tab['type'] == 'page']
        self.socket = websocket.create_connection(page['webSocketDebuggerUrl'], timeout=120, suppress_origin=True)
        self.number = 0

    def ask(self, method, **words):
        """The answer to a command."""
        self.number += 1
        self.socket.send(json.dumps({'id': self.number, 'method': method, 'params': words}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get('id') == self.number:
                return answer['result']

    def value(self, script):
        """What a script says."""
        return self.ask('Runtime.evaluate', expression=script, returnByValue=True)['result'].get('value')

    def open(self, url, screen):
        """Show a page on a screen, and wait until it has been drawn."""
        width, scale, phone = screen
        self.ask('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=scale, mobile=phone)
        self.ask('Page.navigate', url=url)
        self.wait('document.readyState === "complete"')
        time.sleep(2)

    def open_when_there(self, url):
        """Show what a server that is about to start will send."""
        for _ in range(120):
            with suppress(requests.ConnectionError):
                requests.get(url, timeout=30)
                break
            time.sleep(0.5)
        self.open(url, DESK)

    def wait(self, script, seconds=120):
        """Until a script says yes."""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f'not within {seconds} s: {script}'
            time.sleep(0.5)

    def click(self, words, which, key):
        """Press what has these words, or is found by this selector; then a key."""
        place = PLACE.format(words=json.dumps(words), which=which)
        self.wait(f'{place} !== null')
        x, y = self.value(place)
        for kind in 'mouseMoved', 'mousePressed', 'mouseReleased':  # a menu marks what the mouse is over
            self.ask('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)
        for kind in ('keyDown', 'keyUp') if key else ():
            self.ask('Input.dispatchKeyEvent', type=kind, key=key, code=key)
        time.sleep(1)

    def picture(self, path, media=''):
        """The whole page, as far as it is not too long."""
        self.ask('Emulation.setEmulatedMedia', media=media)
        size = self.ask('Page.getLayoutMetrics')['cssContentSize']
        clip = {'x': 0, 'y': 0, 'width': size['width'], 'height': min(size['height'], LONGEST), 'scale': 1}
        data = self.ask('Page.captureScreenshot', captureBeyondViewport=True, clip=clip)['data']
        path.write_bytes(base64.b64decode(data))
        print(path, flush=True)


@contextmanager
def browser():
    """A browser with a folder of its own, which is ended."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = [option for option in OPTIONS if 'virtual-time' not in option]
        process = subprocess.Popen([CHROMIUM, *options, '--hide-scrollbars', '--remote-debugging-port=0',
                                    f'--user-data-dir={folder}', 'about:blank'], stderr=subprocess.DEVNULL)
        try:
            yield Browser(process, Path(folder))
        finally:
            process.terminate()
            process.wait()


def readme(folder):
    """The README as a page, as GitHub shows it."""
    text = markdown2html((REPO / 'README.md').read_text(encoding='utf-8'))
    page = folder / 'readme.html'
    page.write_text(README.format(base=f'{REPO.as_uri()}/', text=text), encoding='utf-8')
    return page


def report(folder, name):
    """The report of committed results, made in a copy of them."""
    shutil.copytree(REPO / 'results' / name, folder / 'results' / name, ignore=shutil.ignore_patterns('runs'))
    return make_report(name, folder / 'results', REPO / 'datasets')


@contextmanager
def jupyter(folder):
    """JupyterLab beside the committed results; says where the explorer is."""
    (folder / 'nbs').mkdir()
    shutil.copy(REPO / 'nbs' / 'explore.ipynb', folder / 'nbs')
    (folder / 'results').symlink_to(REPO / 'results')
    (folder / 'datasets').symlink_to(REPO / 'datasets')
    for name, value in SETTINGS.items():
        settings = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(value), encoding='utf-8')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', f'--port={port}', '--allow-root',
               '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}', '--LabApp.news_url=',
               '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    environment = os.environ | {'JUPYTER_PREFER_ENV_PATH': '1', 'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings')}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield f'http://127.0.0.1:{port}/lab/tree/nbs/explore.ipynb?reset'
    finally:
        process.terminate()
        process.wait()


def explorer(window, path):
    """The explorer in JupyterLab, after five clicks."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, jupyter(Path(folder)) as url:
        window.open_when_there(url)
        window.wait(IDLE, 300)
        for click in CLICKS:
            window.click(*click)
            window.wait(IDLE, 300)
        time.sleep(5)
        window.picture(path)


def main(folder, name='demo'):
    """All pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as window, tempfile.TemporaryDirectory() as work:
        pages = {'readme': readme(Path(work)), 'report': report(Path(work), name),
                 'book': REPO / '_docs' / 'index.html'}
        for page, path in pages.items():
            for screen, size in {'desk': DESK, 'phone': PHONE}.items():
                if path.exists():
                    window.open(path.as_uri(), size)
                    window.picture(folder / f'{page}-{screen}.png')
        window.open(pages['report'].as_uri(), PAPER)
        window.picture(folder / 'report-print.png', 'print')
        explorer(window, folder / 'explorer.png')


if __name__ == '__main__':
    main(Path(sys.argv[1]), *sys.argv[2:])

"""What a browser without a window says of a page, and a browser that is clicked on."""

import base64
import html
import json
import re
import shutil
import subprocess
import urllib.request

import pytest

from helpers import wait_for

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
OPTIONS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--allow-file-access-from-files',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--virtual-time-budget=5000',
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='no chromium here: the page is not looked at in a browser')

# Errors are counted from the first script on; the page around measures the page inside once it has been drawn.
LISTEN = """<script>
window.problems = [];
addEventListener('error', event => problems.push(String(event.message)), true);
</script>"""
OUTSIDE = """<!doctype html><body style="margin:0">
<iframe width="{width}" height="3000" style="border:0" src="{url}"></iframe>
<script>
addEventListener('load', () => setTimeout(() => {{
    const inside = document.querySelector('iframe').contentWindow, root = inside.document.documentElement;
    const pictures = [...inside.document.images];
    const canvas = inside.document.querySelector('canvas');
    const now = inside.document.querySelector('.now');
    document.title = JSON.stringify({{
        width: inside.innerWidth, needed: root.scrollWidth, pictures: pictures.length,
        missing: pictures.filter(picture => !picture.naturalWidth).length, problems: inside.problems,
        wide: pictures.filter(picture => picture.getBoundingClientRect().right > inside.innerWidth).length,
        canvas: canvas && [canvas.width, canvas.height],
        drawn: canvas && canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(x => x),
        now: now && now.textContent, found: inside.document.querySelectorAll('ul.search li').length,
        formulas: inside.document.querySelectorAll('mjx-container').length,
        back: inside.getComputedStyle(inside.document.body).backgroundColor,
        fetched: [...inside.performance.getEntriesByType('resource').map(x => x.name),
                  ...[...inside.document.querySelectorAll('script, link, img')].map(x => x.src || x.href || '')]
            .filter(x => !x.startsWith('data:') && x)
    }});
}}, 2000));
</script>"""


def measured(page, width, folder, *options, query=''):
    """What a browser says of a page in a window of that width; the page is changed, so that it counts its errors."""
    text = page.read_text(encoding='utf-8')
    if LISTEN not in text:
        page.write_text(re.sub('<head>', lambda head: head[0] + LISTEN, text, count=1), encoding='utf-8')
    outside = folder / 'outside.html'
    outside.write_text(OUTSIDE.format(width=width, url=page.absolute().as_uri() + query), encoding='utf-8')
    command = [CHROMIUM, *OPTIONS, *options, f'--user-data-dir={folder / "profile"}', '--dump-dom', outside.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r'<title>(.*?)</title>', dom)
    assert title, dom[-500:]
    return json.loads(html.unescape(title[1]))


class Page:
    """A page in a browser of its own, driven through Chromium's debugging protocol."""

    def __init__(self, url, folder, size=(1280, 6000)):
        import websocket

        options = [word for word in OPTIONS if 'budget' not in word]
        profile, size = folder / 'profile', ','.join(map(str, size))
        self.process = subprocess.Popen(
            [CHROMIUM, *options, '--remote-debugging-port=0', f'--window-size={size}', f'--user-data-dir={profile}',
             url], stderr=subprocess.DEVNULL)
        said = profile / 'DevToolsActivePort'
        port = wait_for(lambda: said.exists() and said.read_text(encoding='utf-8').splitlines(), what='Chromium')[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f'http://127.0.0.1:{port}/json') as answer:
            page = next(each for each in json.load(answer) if each['type'] == 'page')
        self.socket, self.number = websocket.create_connection(page['webSocketDebuggerUrl'], suppress_origin=True), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def call(self, method, **params):
        """The answer to one message."""
        self.number += 1
        self.socket.send(json.dumps({'id': self.number, 'method': method, 'params': params}))
        while (answer := json.loads(self.socket.recv())).get('id') != self.number:
            pass
        assert 'error' not in answer, answer
        return answer['result']

    def js(self, expression):
        """The value of an expression in the page."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def click(self, element, seconds=30):
        """Click in the middle of an element, given as JavaScript, once it is there."""
        x, y = wait_for(lambda: self.js(f"""(() => {{
            const element = {element};
            if (!element) return null;
            element.scrollIntoView({{block: 'center'}});
            const box = element.getBoundingClientRect();
            return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
        }})()"""), seconds, element)
        for kind in 'mouseMoved', 'mousePressed', 'mouseReleased':
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def press(self, key):
        """A key, by its name in browsers, for example ArrowRight."""
        codes = {'ArrowRight': 39, 'ArrowDown': 40, 'Enter': 13}
        for kind in 'keyDown', 'keyUp':
            self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def picture(self, path, **options):
        """A screenshot as PNG."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', **options)['data']))

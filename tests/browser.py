"""What a browser without a window says of a page."""

import html
import json
import re
import shutil
import subprocess

import pytest

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

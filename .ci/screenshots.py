"""Pictures of what a newcomer looks at: python .ci/screenshots.py FOLDER [EXPERIMENT].

README as rendered, an experiment's report (also in print) and the book, each on a desk and on a phone, a screen after
the other; and the explorer after five clicks. Builds the book first; takes a few minutes, and needs chromium, but
nothing from the internet.
"""
import sys
import tempfile
import time
from pathlib import Path

from nbconvert.filters import markdown2html

from docs import build

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / 'tests'))
from browser import Page  # noqa: E402
from helpers import wait_for  # noqa: E402
from test_explore import choose, explorer, settled  # noqa: E402

SCREENS = {  # name -> width, height, pixels for each, whether it is a phone, medium
    'desk': (1280, 2000, 1, False, 'screen'), 'phone': (390, 1600, 2, True, 'screen'),
    'print': (720, 1020, 1, False, 'print')}
README = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<base href="{base}"><style>body {{ max-width: 56rem; margin: auto; padding: 1rem; font: 16px/1.5 sans-serif }}
img {{ max-width: 100% }} table {{ display: block; overflow-x: auto; border-collapse: collapse }}
td, th {{ border: 1px solid #d0d7de; padding: 6px 13px }} a {{ color: #0969da }} .anchor-link {{ display: none }}
pre {{ background: #f6f8fa; padding: 1rem; overflow-x: auto }}</style></head><body>{text}</body></html>"""


def readme(folder):
    """The README as a page, as GitHub shows it."""
    text = markdown2html((REPO / 'README.md').read_text(encoding='utf-8'))
    page = folder / 'readme.html'
    page.write_text(README.format(base=f'{REPO.as_uri()}/', text=text), encoding='utf-8')
    return page


def shown(page, path, screen):
    """Show a file on a screen; returns how long it is, in the page's own pixels."""
    width, height, scale, phone, medium = SCREENS[screen]
    page.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=scale, mobile=phone)
    page.call('Emulation.setEmulatedMedia', media=medium)
    page.call('Page.navigate', url=path.as_uri())
    wait_for(lambda: page.js(f'document.URL === "{path.as_uri()}" && document.readyState === "complete"'))
    time.sleep(2)  # for its scripts
    return page.call('Page.getLayoutMetrics')['cssContentSize']['height']


def pictures(page, path, screen, name):
    """The whole page, a screen after the other."""
    width, height, *_ = SCREENS[screen]
    for i, top in enumerate(range(0, int(shown(page, path, screen)), height), 1):
        clip = {'x': 0, 'y': top, 'width': width, 'height': height, 'scale': 1}
        page.picture(Path(f'{name}-{screen}-{i}.png'), captureBeyondViewport=True, clip=clip)


def five_clicks(folder, picture):
    """Run, Run All Cells, another run, another image, another class."""
    with explorer(folder) as page:
        first = settled(page, lambda cells: len(cells) == 8)
        choose(page, 1, 'no_pen-lr0.001-r1')
        second = settled(page, lambda cells: cells[0]['text'] != first[0]['text'])
        page.click("document.querySelectorAll('.noUi-handle')[1]")
        page.press('ArrowRight')
        choose(page, 2, '7')
        settled(page, lambda cells: cells[3] != second[3])
        page.picture(picture)


def main(folder, name='demo'):
    """All pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        book = Path(work, 'book')
        build(book, [name])
        paths = {'readme': readme(Path(work)), 'report': book / 'reports' / f'{name}.html',
                 'book': book / 'index.html', 'chapter': book / 'chapters' / '5_findings' / 'fashion.html'}
        with Page('about:blank', Path(work, 'pages')) as page:
            for each, screen in ((each, screen) for each in paths for screen in SCREENS):
                if screen != 'print' or each == 'report':
                    pictures(page, paths[each], screen, folder / each)
        five_clicks(Path(work), folder / 'explorer.png')


if __name__ == '__main__':
    main(Path(sys.argv[1]), *sys.argv[2:])

"""The report in a browser: nothing missing, no error, nothing wider than the screen, and nothing fetched."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from binenc import report
from binenc.errors import UserError
from binenc.execute import make_report
from browser import measured, needs_browser
from helpers import BINENC, environment

RESULTS = Path(__file__).parents[1] / 'results'
@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """The demo's committed results, in a folder that may be written."""
    folder = tmp_path_factory.mktemp('report')
    shutil.copytree(RESULTS / 'demo', folder / 'demo')
    return folder


@pytest.fixture(scope='module')
def page(results):
    """The demo's report, as the command makes it."""
    words = [BINENC, 'report', 'demo', '--results', results]
    done = subprocess.run(words, cwd=results, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and 'open it in a browser: file://' in done.stdout, done.stdout + done.stderr
    return report.report_path('demo', results).read_text(encoding='utf-8')


@pytest.fixture
def path(page, tmp_path):
    """The same, in a file of its own."""
    (tmp_path / 'report.html').write_text(page, encoding='utf-8')
    return tmp_path / 'report.html'


@needs_browser
@pytest.mark.parametrize('width, scheme, back', [(390, 0, 'rgb(20, 24, 29)'), (1280, 1, 'rgb(255, 255, 255)')])
def test_in_a_browser(path, width, scheme, back, tmp_path):
    """On a telephone, dark, and on a desk, light: every picture is there, nothing sticks out, no script fails, nothing
    is fetched, and the page is as dark or light as the person prefers."""
    found = measured(path, width, tmp_path, f'--blink-settings=preferredColorScheme={scheme}')
    assert found['back'] == back
    assert found['width'] == width and found['needed'] <= width
    assert found['pictures'] >= 10 and found['missing'] == 0 and found['wide'] == 0
    assert found['problems'] == [] and found['fetched'] == []
    assert found['drawn'] and 100 < found['canvas'][0] <= width
    assert re.fullmatch(r'epoch \d+, gamma \S+; same-encoding fraction: BinEnc 0\.\d+, LinPen 0\.\d+', found['now'])


def test_reduced_motion_and_print(page):
    """Both are asked for; a browser without a window cannot show them."""
    assert 'prefers-reduced-motion: reduce' in page and '@media print' in page


def test_every_section_and_the_same_bytes_again(page, results):
    """Sections in the notebook's order, with a way back; no column that says the same in each row; inputs are not
    shown; a second report of the same results is the same page."""
    assert page.count('href="#top"') == 1 and '<td>Digits</td>' not in page and 'StoredResults' not in page
    headings = re.findall('<h2 id="[^"]*">(.*?)</h2>', page)
    assert headings[0] == 'The code emerges' and {'Claims', 'Figures', 'Images', 'Attacks', 'Checklist'} < set(headings)
    assert make_report('demo', results).read_text(encoding='utf-8') == page


def test_what_is_missing_is_said(tmp_path):
    """Without figures, tables, snapshots and weights there is a page that names the commands."""
    for name in 'experiment.json', 'runs.csv', 'selected.csv', 'history.csv.gz':
        (tmp_path / 'demo').mkdir(exist_ok=True)
        shutil.copy(RESULTS / 'demo' / name, tmp_path / 'demo')
    page = make_report('demo', tmp_path).read_text(encoding='utf-8')
    for sentence in (
        'No figure has been drawn yet: run "binenc figures demo"',
        'No snapshots are stored here',
        'No weights of a selected run',
        'No claim has been tested yet',
    ):
        assert sentence in html.unescape(page)


def test_one_part_that_fails_is_said(monkeypatch):
    """A network that cannot be looked at takes no other part of the report with it."""
    from binenc import figures, gallery

    def diverged(trained):
        raise UserError('the run diverged')

    monkeypatch.setattr(gallery, 'look', diverged)
    [said] = report.image_section(figures.StoredResults(['demo'], RESULTS))
    assert said.data == 'the run diverged.'


def test_unknown_experiment(tmp_path):
    with pytest.raises(UserError, match='nothing has no results in .*: run "binenc sweep nothing" first'):
        make_report('nothing', tmp_path)

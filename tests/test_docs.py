"""The book: every chapter and module has a page, and a browser shows the pages and finds words without the internet."""

import importlib
import inspect
import os
import re
import shutil
from pathlib import Path

import pytest

from browser import measured, needs_browser
from docs import reference_page
from helpers import REPO
from lint import chapters

BOOK = os.environ.get('BINENC_BOOK')


@pytest.fixture(scope='module')
def book(tmp_path_factory):
    """A copy of the site that `make docs` built, with the demo's report."""
    if BOOK is None:
        pytest.skip('the book takes half a minute: "make docs" builds it and tests it')
    return Path(shutil.copytree(BOOK, tmp_path_factory.mktemp('book') / 'site'))


def unexplained(kind, shown, anything):
    """Parameters of a class's constructor that the reference does not show, or (unless anything will do) says nothing
    of; nobody makes errors and protocols, and what torch's constructor takes is in torch's reference."""
    ours = getattr(kind.__init__, '__module__', '').startswith('binenc')
    made = ours and not issubclass(kind, Exception) and not getattr(kind, '_is_protocol', False)
    names = inspect.signature(kind).parameters if made else []
    for name in names:
        word = re.search(rf'\b{name}\b', kind.__doc__ or '') or re.search(rf'^ *\**{name}\b.*# \S', shown, re.M)
        if not word and not (anything and re.search(rf'\b{name}\b', shown)):
            yield f'{kind.__name__}: {name}'


def test_the_reference_shows_how_a_class_is_made():
    """Each parameter of each public class; in the layer and the measures with what it means, its shape or its unit."""
    found = []
    for name, chapter in chapters().items():
        module = importlib.import_module(f'binenc.{name}')
        shown = dict(re.findall(r'^## (\w+)\n\n```python\n(.*?)\n```$', reference_page(module), re.M | re.S))
        kinds = [value for each in module.__all__ if inspect.isclass(value := getattr(module, each))]
        found += [line for kind in kinds for line in unexplained(kind, shown[kind.__name__], chapter > '3')]
    assert not found


def test_every_page_is_there(book):
    """A page for each chapter and each module, the report, and none without a way to it."""
    numbered = {path.stem for path in (REPO / 'nbs').glob('*/[0-9]*.ipynb')}
    assert numbered == {path.stem for path in (book / 'chapters').glob('*/[0-9]*.html')}
    modules = {name.partition('_')[2] for name in numbered}
    assert modules == {path.stem for path in (book / 'reference').glob('*.html')}
    front = (book / 'index.html').read_text(encoding='utf-8')
    assert (book / 'reports' / 'demo.html').exists()
    for page in (*book.glob('chapters/*.html'), *book.glob('reference/*.html'), *book.glob('reports/*.html')):
        assert f'href="{page.relative_to(book)}"' in front, page


def test_doors_and_what_is_behind_figures(book):
    """The front page has three doors; every figure of a chapter says which notebook draws it from which data, tables
    are linked, and what all these links lead to is there."""
    front = (book / 'index.html').read_text(encoding='utf-8')
    doors = re.search(r'<div class="doors">(.*?)</div>\n</div>', front, re.S)[1]
    assert re.findall(r'<b>(.*?)</b>', doors) == ['See it', 'Use it', 'Reproduce it']
    targets = [(book, target) for target in re.findall('href="([^"]*)"', doors)]
    for page in book.glob('chapters/**/*.html'):
        text = page.read_text(encoding='utf-8')
        cells = text.split('<div class="cell ')
        assert not [cell for cell in cells if '_images/' in cell and 'class="behind"' not in cell], page
        targets += [(page.parent, target) for target in re.findall('href="([^"]*/(?:results|notebooks)/[^"]*)"', text)]
    assert len(targets) > 100 and {'../../results/fashion/claims.md'} <= {target for _, target in targets}
    for folder, target in {*targets}:
        assert f'id="{target[1:]}"' in front if target.startswith('#') else (folder / target).exists(), target


@needs_browser
@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('name', [
    'index', 'chapters/2_measures/01_collapse', 'chapters/explore', 'reference/robustness'])
def test_in_a_browser(book, name, width, tmp_path):
    """Every picture is there, nothing sticks out, no script fails, everything comes from the folder itself."""
    found = measured(book / f'{name}.html', width, tmp_path)
    assert found['width'] == width and found['needed'] <= width
    assert found['missing'] == 0 and found['wide'] == 0 and found['problems'] == []
    assert found['pictures'] >= {'index': 1, 'chapters/explore': 8}.get(name, 0)
    assert found['formulas'] >= {'chapters/2_measures/01_collapse': 3}.get(name, 0)
    assert found['fetched'] and all(place.startswith(book.as_uri()) for place in found['fetched'])


@needs_browser
@pytest.mark.parametrize(('word', 'anything'), [
    ('hypercube', True), ('mahalanobis_auroc', True), ('DeepFool', True), ('xyzzyx', False)])
def test_search(book, word, anything, tmp_path):
    """Words of the text and names of functions are found offline; what is nowhere is not."""
    found = measured(Path(book / 'search.html'), 1280, tmp_path, query=f'?q={word}')
    assert (found['found'] > 0) == anything and found['problems'] == []

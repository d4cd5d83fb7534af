"""Builds the book, a static site that needs no internet: python .ci/docs.py [FOLDER [EXPERIMENT...]].

The front page has three doors and the README; the chapters are the notebooks with the outputs that are committed, each
figure with a way to its notebook and data; the reference has the signatures and docstrings of the library; the reports
are made from the committed results.
"""
import ast
import importlib
import inspect
import itertools
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

import binenc
from binenc.execute import make_report
from binenc.store import stored_names

REPO = Path(__file__).parents[1]
PARTS = {  # of the book -> notebooks below nbs/
    'Notebooks to run': ['demo', 'explore', 'own_data', 'in_your_framework', 'extend'],
    'The layer': '1_layer/*',
    'Measures': '2_measures/*',
    'An experiment': '3_experiment/*',
    'Training': '4_training/*',
    'Findings': ['5_findings/*', '5_findings/figures/*'],
    'Running': '6_running/*',
}
DOORS = """
<div class="doors">
<div><b>See it</b> <a href="reports/demo.html">A report</a> with points that move while you watch,
<a href="chapters/demo.html">four models trained step by step</a>, and
<a href="chapters/explore.html">finished runs to explore</a>.</div>
<div><b>Use it</b> <a href="#the-layer-in-your-own-network">A training loop</a> with the layer in it,
<a href="chapters/1_layer/04_attaching.html">your trained network</a>, or
<a href="chapters/own_data.html">your own images</a>.</div>
<div><b>Reproduce it</b> <a href="chapters/5_findings/paper.html">The paper's figures beside ours</a>,
<a href="#reproduce-the-paper-on-a-slurm-cluster">its runs on a cluster</a>, and
<a href="chapters/5_findings/design.html">how claims are judged</a>.</div>
</div>
"""
STYLE = """
.doors { display: flex; flex-wrap: wrap; gap: 1em; margin: 1em 0 }
.doors > div { flex: 1 1 12em; border: 1px solid var(--color-background-border); border-radius: 6px; padding: 0.8em }
.doors b { display: block; font-size: 120% }
.behind { font-size: 75%; margin-top: 0 }
@media (min-width: 100em) { .content { width: 60em } }
pre { font-size: 75% }
table.docutils { font-size: 90% }
"""
CONFIG = {
    'project': 'binenc',
    'author': 'binenc developers',
    'release': binenc.__version__,
    'extensions': ['myst_nb', 'sphinx-mathjax-offline'],
    'html_theme': 'furo',
    'html_title': f'binenc {binenc.__version__}',
    'html_copy_source': False,
    'html_show_sphinx': False,
    'html_show_copyright': False,
    'html_static_path': ['static'],
    'html_css_files': ['book.css'],
    'nb_execution_mode': 'off',
    'nb_merge_streams': True,
    'nb_ipywidgets_js': {},  # widgets need a kernel, and their scripts the internet
    'nb_render_markdown_format': 'myst',
    'myst_enable_extensions': ['dollarmath', 'amsmath'],
    'myst_heading_anchors': 3,
    'exclude_patterns': ['results', 'reports'],
    'suppress_warnings': ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'misc.highlighting_failure'],
}


def build(folder, experiments):
    """Write the site below a folder, with reports of some experiments, and say where its first page is."""
    with tempfile.TemporaryDirectory() as work: # myst-nb writes beside the site too
        source, site = Path(work, 'source'), Path(work, 'site')
        source.mkdir()
        write_sources(source, experiments)
        Sphinx(source, None, site, Path(work, 'doctrees'), 'html', CONFIG, status=None, warningiserror=True).build()
        shutil.copytree(site, folder, dirs_exist_ok=True)
    shutil.copytree(REPO / 'results', folder / 'results', ignore=no_arrays, dirs_exist_ok=True)
    shutil.copytree(REPO / 'nbs', folder / 'notebooks', ignore=shutil.ignore_patterns('.*'), dirs_exist_ok=True)
    for experiment in (folder / 'results').iterdir():
        (experiment / 'index.html').write_text(listing(experiment), encoding='utf-8')
    write_reports(folder / 'reports', experiments)
    print(f'the book is built; open it in a browser: {(folder / "index.html").absolute().as_uri()}')


def write_sources(source, experiments):
    """Everything that Sphinx reads."""
    chapters = {part: list(chapters_of(names)) for part, names in PARTS.items()}
    for path in (path for paths in chapters.values() for path in paths):
        write_chapter(path, source / 'chapters' / path.relative_to(REPO / 'nbs'))
    reference = write_reference(source / 'reference')
    trees = [tree(part, [f'chapters/{path.relative_to(REPO / "nbs").with_suffix("")}' for path in paths])
             for part, paths in chapters.items()]
    (source / 'index.md').write_text('\n\n'.join([front_page(experiments), *trees, tree('Reference', reference)]),
                                     encoding='utf-8')
    (source / 'static').mkdir()
    (source / 'static' / 'book.css').write_text(STYLE, encoding='utf-8')
    shutil.copytree(REPO / 'results', source / 'results', ignore=only_pictures_and_tables)


def chapters_of(names):
    """Paths of notebooks, in the order of the patterns."""
    for pattern in [names] if isinstance(names, str) else names:
        yield from sorted((REPO / 'nbs').glob(f'{pattern}.ipynb'))


def tree(title, pages):
    """A part of the table of contents."""
    return '\n'.join(['```{toctree}', ':hidden:', f':caption: {title}', '', *pages, '```'])


def front_page(experiments):
    """The README, with links to pages of the book, and to the reports."""
    text = (REPO / 'README.md').read_text(encoding='utf-8')
    text = re.sub(r'\]\(nbs/([\w/]+)\.ipynb\)', r'](chapters/\1.ipynb)', text)
    reports = [f'<a href="reports/{name}.html">{name}</a>' for name in experiments]
    text = text.replace('\n## See it in minutes', f'\nReports: {", ".join(reports)}.\n\n## See it in minutes', 1)
    text = linked(text, '')
    title, picture, rest = re.split(r'(!\[[^]]*\]\([^)]*\)\n)', text, maxsplit=1)
    below = behind('', '5_findings/05_animation.ipynb', ['demo'])
    return '\n'.join([title + DOORS, ' '.join(picture.split()), '', below, rest])


def behind(up, notebook, experiments):
    """A line below a figure: the notebook that draws it, and the stored data that it is drawn from, if any."""
    data = ', '.join(f'<a href="{up}results/{name}/index.html">{name}</a>' for name in experiments)
    return (f'<p class="behind">drawn by <a href="{up}notebooks/{notebook}">{notebook}</a>'
            f'{" from the stored data of " + data if data else ", from what it computes"}</p>\n')


def listing(folder):
    """A page that lists the files below a folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())
    links = ''.join(f'<li><a href="{name}">{name}</a></li>\n' for name in names)
    return f'<!doctype html><meta charset="utf-8"><title>{folder.name}</title><h1>{folder.name}</h1><ul>{links}</ul>\n'


def write_chapter(path, target):
    """A notebook without nbdev's directives and without the cells that these hide."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if not re.match(r'#\| *(hide|default_exp)', cell.source)]
    notebook.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
    name = path.relative_to(REPO / 'nbs').as_posix()
    used = [each for each in stored_names(REPO / 'results')
            if any(re.search(rf'[\'/]{each}[\'/]', cell.source) for cell in notebook.cells)]
    up = '../' * (name.count('/') + 1)
    for cell in notebook.cells:
        if cell.source.startswith('#| echo: false'): # text with computed numbers
            cell.metadata.tags = ['remove-input']
        cell.source = re.sub(r'^#\|.*\n', '', cell.source, flags=re.MULTILINE)
        cell.source = linked(cell.source, up) if cell.cell_type == 'markdown' else cell.source
        for data in (output.get('data', {}) for output in cell.get('outputs', ())):
            if 'text/markdown' in data:
                data['text/markdown'] = linked(data['text/markdown'], up)
        if cell.cell_type == 'code' and prepares(cell):
            cell.metadata.tags = ['hide-input']
    notebook.cells = [each for cell in notebook.cells for each in (
        cell, *[nbformat.v4.new_markdown_cell(behind(up, name, used))] * draws(cell))]
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def linked(text, up):
    """Markdown whose links to stored results lead there, with a line below each figure that a notebook has drawn."""
    text = re.sub(r'(?<!!)\[([^]]*)\]\([./]*results/([^)]*)\)', rf'<a href="{up}results/\2">\1</a>', text)
    return re.sub(r'!\[[^]]*\]\([./]*results/([\w-]+)/figures/(\w+)\.png\)', lambda found: (
        re.sub(r'\([./]*results', '(/results', found[0]) + '\n\n'
        + behind(up, f'5_findings/figures/{found[2]}.ipynb', [found[1]])), text)


def draws(cell):
    """Whether a cell draws a picture itself."""
    return any('image/png' in output.get('data', {}) for output in cell.get('outputs', ()))


def prepares(cell):
    """Whether a cell only imports and sets names, which a reader may skip."""
    try:
        statements = ast.parse(cell.source).body
    except SyntaxError: # a line for IPython
        return False
    plain = all(isinstance(each, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr) for each in statements)
    return plain and not cell.outputs and isinstance(statements[0], ast.Import | ast.ImportFrom)


def write_reference(folder):
    """A page for each module, in the order of the chapters; returns their names."""
    folder.mkdir()
    names = [path.stem.partition('_')[2] for path in chapters_of('*/[0-9]*')]
    for name in names:
        (folder / f'{name}.md').write_text(reference_page(importlib.import_module(f'binenc.{name}')), encoding='utf-8')
    return [f'reference/{name}' for name in names]


def reference_page(module):
    """What a module exports: signatures with their comments, docstrings, fields, and the methods of classes."""
    shown = [f'## {name}\n\n```python\n{head_of(value)}\n```' for name in module.__all__
             if inspect.isroutine(value := getattr(module, name)) or inspect.isclass(value)]
    return '\n\n'.join([f'# {module.__name__}', module.__doc__, *shown]) + '\n'


def head_of(value):
    """The source of a function up to the end of its docstring; of a class also its fields, constructor and methods."""
    source = textwrap.dedent(inspect.getsource(value))
    return '\n'.join(head_lines(ast.parse(source).body[0], source.splitlines()))


def head_lines(statement, lines):
    """Those that say how a function, or a class and what is public in it, is called."""
    in_class = isinstance(statement, ast.ClassDef)
    head = list(itertools.takewhile(is_docstring_or_field if in_class else is_docstring, statement.body))
    end = head[-1].end_lineno if head else first_line(statement.body[0]) - 1
    yield from lines[first_line(statement) - 1:max(end, statement.lineno)]
    for method in (part for part in statement.body if in_class and isinstance(part, ast.FunctionDef)):
        if method.name in ('__init__', '__call__') or not method.name.startswith('_'):
            yield from ['', *head_lines(method, lines)]


def first_line(statement):
    """Where it begins, counted from 1: with its decorators."""
    return min([statement.lineno, *(each.lineno for each in getattr(statement, 'decorator_list', ()))])


def is_docstring(statement):
    """Whether it is a text that stands by itself."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_docstring_or_field(statement):
    """Whether a statement says what a class is, rather than does it."""
    plain = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.AnnAssign) or plain or is_docstring(statement)


def only_pictures_and_tables(folder, names):
    """What the pages do not show is left out."""
    return [name for name in names if Path(folder, name).is_file() and Path(name).suffix not in ('.png', '.gif', '.md')]


def no_arrays(folder, names):
    """Arrays and weights are left out of the data to look at."""
    return [name for name in names if Path(name).suffix in ('.npz', '.safetensors', '.pdf')]


def write_reports(folder, experiments):
    """The report of each experiment, made in a copy of its results."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(REPO / 'results', copy, dirs_exist_ok=True)
        for name in experiments:
            shutil.copy(make_report(name, copy), folder / f'{name}.html')


if __name__ == '__main__':
    words = sys.argv[1:]
    build(Path(words[0] if words else REPO / '_docs'), words[1:] or stored_names(REPO / 'results'))

"""Writes README.md from nbs/index.ipynb, without Quarto: python .ci/readme.py.

The cells marked `echo: false` hold text with numbers and are executed, so that README says what is stored now; the
training loop is shown with the output that is committed. tests/test_readme.py checks that README and index agree.
"""
import re
import textwrap
from contextlib import chdir
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

from binenc.execute import new_shell, run_cell

REPO = Path(__file__).parents[1]
INDEX = REPO / 'nbs' / 'index.ipynb'
COMPUTED = '#| echo: false'
PIECE = re.compile(r'\n(?=\n|- )')  # before a blank line or an item of a list
WRAP = dict(width=120, break_long_words=False, break_on_hyphens=False)


def computed_index():
    """The index as a notebook, with what is stored now in the outputs of its computed cells."""
    notebook, shell = nbformat.read(INDEX, 4), new_shell()
    with chdir(INDEX.parent):
        for cell in computed_cells(notebook):
            cell.outputs, result = run_cell(shell, cell.source)
            result.raise_error()
            assert cell.outputs, 'a computed cell says nothing'
    return notebook


def computed_cells(notebook):
    """Those of which only the output is shown."""
    return [cell for cell in notebook.cells if cell.cell_type == 'code' and cell.source.startswith(COMPUTED)]


def render(notebook):
    """The text of README.md. Links start at the top of the repository; blank lines are not repeated."""
    notebook.metadata['language_info'] = {'name': 'python'}
    for cell in computed_cells(notebook):
        cell.metadata['transient'] = {'remove_source': True}
        for output in cell.outputs:
            output.data['text/markdown'] = '\n'.join(map(filled, PIECE.split(output.data['text/markdown'])))
    text, _ = MarkdownExporter(config=exporter_config()).from_notebook_node(notebook)
    text = text.replace('../results/', 'results/')
    lines = [line.rstrip() for line in text.splitlines()]
    return '\n'.join(line for i, line in enumerate(lines) if line or i and lines[i - 1]).strip() + '\n'


def filled(piece):
    """A paragraph or an item of a list in lines of one width; a table as it is."""
    if piece.lstrip().startswith('|'):
        return piece
    item = piece.startswith('- ')
    blank = '\n' if piece.startswith('\n') else ''
    return blank + textwrap.fill(' '.join(piece.split()), subsequent_indent='  ' if item else '', **WRAP)


def exporter_config():
    """Leaves out the cells that are marked `hide`, `export` or `default_exp`."""
    patterns = [r'#\| *(hide|export|default_exp)']
    return Config({'RegexRemovePreprocessor': {'enabled': True, 'patterns': patterns}})


if __name__ == '__main__':
    index = computed_index()
    nbformat.write(index, INDEX)
    (REPO / 'README.md').write_text(render(index), encoding='utf-8')

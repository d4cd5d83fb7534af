"""Writes README.md from nbs/index.ipynb, without Quarto: python .ci/readme.py.

tests/test_readme.py checks that the two agree.
"""
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

REPO = Path(__file__).parents[1]


def render():
    """The text of README.md. Links start at the top of the repository; blank lines are not repeated."""
    text, _ = MarkdownExporter(config=exporter_config()).from_notebook_node(index_notebook())
    lines = [line.rstrip() for line in text.replace('../results/', 'results/').splitlines()]
    return '\n'.join(line for i, line in enumerate(lines) if line or i and lines[i - 1]).strip() + '\n'


def exporter_config():
    """Leaves out the cells that are marked `hide`, `export` or `default_exp`."""
    patterns = [r'#\| *(hide|export|default_exp)']
    return Config({'RegexRemovePreprocessor': {'enabled': True, 'patterns': patterns}})


def index_notebook():
    """The index; of a code cell marked `echo: false`, only the output will be shown."""
    notebook = nbformat.read(REPO / 'nbs' / 'index.ipynb', 4)
    for cell in notebook.cells:
        if cell.cell_type == 'code' and cell.source.startswith('#| echo: false'):
            cell.metadata['transient'] = {'remove_source': True}
    return notebook


if __name__ == '__main__':
    (REPO / 'README.md').write_text(render(), encoding='utf-8')

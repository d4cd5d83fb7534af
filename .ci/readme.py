"""README.md from nbs/index.ipynb, without Quarto: python tests/readme.py writes it; test_readme.py holds the two in step."""
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

REPO = Path(__file__).parents[1]


def render():
    """The text of README.md: hidden cells left out, code cells marked `echo: false` without their code, links seen from the top."""
    notebook = nbformat.read(REPO / 'nbs' / 'index.ipynb', 4)
    for cell in notebook.cells:
        if cell.cell_type == 'code' and cell.source.startswith('#| echo: false'): cell.metadata['transient'] = {'remove_source': True}
    config = Config({'RegexRemovePreprocessor': {'enabled': True, 'patterns': [r'#\| *(hide|export|default_exp)']}})
    text, _ = MarkdownExporter(config=config).from_notebook_node(notebook)
    lines = [line.rstrip() for line in text.replace('../results/', 'results/').splitlines()]
    return '\n'.join(line for i, line in enumerate(lines) if line or i and lines[i - 1]).strip() + '\n'


if __name__ == '__main__':
    (REPO / 'README.md').write_text(render(), encoding='utf-8')

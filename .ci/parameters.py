"""The parameters of train.ipynb are the block of fields of `Run`: python .ci/parameters.py renews its cell."""
import inspect
import json
import re
from pathlib import Path

from binenc.run import Run

NOTEBOOK = Path(__file__).parents[1] / 'nbs' / '4_training' / 'train.ipynb'
PLACES = ["# where",
          "results_dir: str = ''         # empty: results/ here, or beside nbs/ if the notebook is opened there",
          "data_dir: str = ''            # the same for datasets/"]


def block():
    """The lines of the cell; papermill does not understand types of two words."""
    source = inspect.getsource(Run).partition('def __post_init__')[0]
    lines = [line.strip() for line in source.splitlines()[3:] if line.strip()]
    return '\n'.join([re.sub(r'^(\w+: \w+) \| \w+ =', r'\1 =', line) for line in lines] + PLACES)


if __name__ == '__main__':
    notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    [cell] = [cell for cell in notebook['cells'] if 'parameters' in cell['metadata'].get('tags', [])]
    cell['source'] = block().splitlines(keepends=True)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')

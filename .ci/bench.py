"""Run the benchmark notebook through papermill: python .ci/bench.py RESULTS ROUNDS [NAME...].

With --operators, count the operators of a training step instead; nothing is written.
"""
import json
import sys
import tempfile
from pathlib import Path

import papermill

NOTEBOOK = Path(__file__).parents[1] / 'nbs' / '6_running' / 'bench.ipynb'

if __name__ == '__main__':
    if sys.argv[1:] == ['--operators']:
        names = {'__name__': 'bench'}
        for cell in json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']:
            if cell['cell_type'] == 'code':
                exec(compile(''.join(cell['source']), 'bench', 'exec'), names)
        print(*names['operator_lines'](), sep='\n')
        sys.exit()
    results, rounds, *names = sys.argv[1:]
    parameters = {'results_dir': str(Path(results).resolve()), 'rounds': int(rounds), 'names': names}
    with tempfile.TemporaryDirectory() as folder:
        papermill.execute_notebook(NOTEBOOK, Path(folder) / 'bench.ipynb', parameters, kernel_name='python3',
                                   progress_bar=False, stdout_file=sys.stdout)

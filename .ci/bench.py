"""Run the benchmark notebook through papermill: python .ci/bench.py RESULTS ROUNDS [NAME...]."""
import sys
import tempfile
from pathlib import Path

import papermill

NOTEBOOK = Path(__file__).parents[1] / 'nbs' / '6_running' / 'bench.ipynb'

if __name__ == '__main__':
    results, rounds, *names = sys.argv[1:]
    parameters = {'results_dir': str(Path(results).resolve()), 'rounds': int(rounds), 'names': names}
    with tempfile.TemporaryDirectory() as folder:
        papermill.execute_notebook(NOTEBOOK, Path(folder) / 'bench.ipynb', parameters, kernel_name='python3',
                                   progress_bar=False, stdout_file=sys.stdout)

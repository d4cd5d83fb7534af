"""Writes what stored weights need beside them, where an earlier version did not: python .ci/describe_weights.py.

For each results/EXPERIMENT/weights/ID.safetensors without an ID.json: classes, shape and normalisation, from the images
that the run was trained on (in datasets/, see `binenc data`), once the network has given its stored test accuracy with
them again. Then the model card of each of these folders. Nothing else that is stored is changed.
"""
import sys
from pathlib import Path

from binenc.evaluation import evaluate
from binenc.files import json_bytes, read_bytes
from binenc.restored import load_run
from binenc.results import kept_card, kept_table
from binenc.store import about_weights, experiment_folder, keep_files, kept_rows, row_run, stored_names
from binenc.training import prepare

REPO = Path(__file__).parents[1]
RESULTS, DATA = REPO / 'results', REPO / 'datasets'
NEAR = 2e-3  # of the accuracy: another maker's CPU rounds otherwise


def about(run, accuracy, weights):
    """The content of the file beside a run's weights; an assertion fails if they are not those of the run."""
    prepare(run)
    trained = load_run(run, RESULTS, DATA)
    test, normalise = evaluate(trained.classifier, trained.loaders['test']), trained.loaders['train'].normalise
    found = float((test.pred == test.y).double().mean())
    assert abs(found - accuracy) <= NEAR, f'{run.id} has a test accuracy of {found}, and {accuracy} is stored'
    shape = trained.loaders['train'].images.shape[1:]
    return about_weights(run, trained.classes, shape, normalise.mean.tolist(), normalise.std.tolist(), weights)


def describe(name):
    """Write the files of one experiment that are new or other than before; returns how many bytes."""
    folder, rows, files = experiment_folder(name, RESULTS), kept_rows(name, RESULTS), {}
    for path in sorted(folder.glob('weights/*.safetensors')):
        if not path.with_suffix('.json').exists():
            row = rows[path.stem]
            made = about(row_run(row), float(row['test_accuracy']), path.read_bytes())
            files[f'weights/{path.stem}.json'] = json_bytes(made)
    card = kept_card(folder, files, kept_table(name, RESULTS))
    files |= {file: text for file, text in card.items() if read_bytes(folder / file, b'') != text}
    if files:
        keep_files(name, files, RESULTS)
    return sum(map(len, files.values()))


if __name__ == '__main__':
    for experiment in sys.argv[1:] or stored_names(RESULTS):
        if size := describe(experiment):
            print(f'{experiment}: {size:,} bytes', flush=True)

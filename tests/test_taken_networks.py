"""A trained network by what lies beside its weights: no image is read, and a hub can show its card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from binenc.data import load_data
from binenc.errors import UserError
from binenc.restored import load_classifier
from binenc.results import keep_results
from binenc.run import Run
from binenc.store import ABOUT, CARD, experiment_folder, kept_rows, resolve_experiment, row_run, run_folder
from helpers import REPO, TINY

RESULTS = REPO / 'results'
KEPT = sorted(RESULTS.glob('*/weights/*.safetensors'))
FOLDERS = sorted({path.parent for path in KEPT})


def front_matter(card):
    """The block that a hub reads."""
    _, block, text = card.read_text(encoding='utf-8').split('---\n', 2)
    return yaml.safe_load(block), text


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda path: path.parent.name)
def test_every_stored_network_can_be_used(folder, monkeypatch):
    """From one path; those of digits give their stored accuracy again, to an image that another CPU may decide."""
    test = load_data('digits', split='test')
    monkeypatch.setattr('binenc.restored.load_splits', None)
    rows = kept_rows(folder.parent.name, RESULTS)
    for path in folder.glob('*.safetensors'):
        trained, row = load_classifier(path), rows[path.stem]
        assert trained.run == row_run(row) and len(trained.classes) == 10
        logits, _ = trained(torch.zeros(2, *trained.shape, dtype=torch.uint8))
        assert logits.shape == (2, 10) and logits.isfinite().all()
        if trained.run.dataset == 'digits':
            right = (trained(test.images)[0].argmax(1) == test.labels).double().mean()
            assert float(right) == pytest.approx(float(row['test_accuracy']), abs=1.01 / len(test))


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda path: path.parent.name)
def test_cards_of_stored_networks(folder):
    """What a hub reads names each network with its stored accuracy; people find data, numbers and licences."""
    matter, text = front_matter(folder / CARD)
    assert matter['license'] == 'apache-2.0' and matter['pipeline_tag'] == 'image-classification'
    found = {entry['name']: entry['results'][0]['metrics'][0]['value'] for entry in matter['model-index']}
    rows = kept_rows(folder.parent.name, RESULTS)
    assert found == {path.stem: float(rows[path.stem]['test_accuracy']) for path in folder.glob('*.safetensors')}
    assert all(f'| {name} |' in text for name in found)
    assert [line for line in text.splitlines() if line.startswith('## ')] == [
        '## Use', '## Data', '## Training', '## Numbers', '## Licence']
    assert 'CIFAR-10 ' not in text


def test_what_lies_beside_them_is_small():
    """Together less than 200 kB."""
    beside = [path for folder in FOLDERS for path in folder.iterdir() if path.suffix != '.safetensors']
    assert len(beside) == len(KEPT) + len(FOLDERS) and sum(path.stat().st_size for path in beside) < 200_000


def test_a_run_from_now_on(trained, tmp_path):
    """By its run and by its folder, which can be taken anywhere; the card has its numbers."""
    run = Run(**TINY)
    folder = Path(shutil.copytree(run_folder(run, trained).path, tmp_path / 'taken'))
    test = load_data('digits', split='test')
    networks = load_classifier(run, trained), *map(load_classifier, (folder, folder / 'weights.safetensors'))
    for network in networks:
        right = (network(test.images.numpy())[0].argmax(1) == test.labels).double().mean()
        assert float(right) == run_folder(run, trained).metrics['test_accuracy'] and network.run == run
    matter, _ = front_matter(folder / CARD)
    assert [entry['name'] for entry in matter['model-index']] == [run.id]
    for wrong in test.images.float(), test.images[:, :, :4], np.zeros((2, 8, 8), np.uint8):
        with pytest.raises(UserError, match=r'images must be uint8 of shape \(n, 1, 8, 8\), grey levels 0 to 255, not'):
            network(wrong)


@pytest.mark.parametrize('harm, told', [
    (lambda folder: (folder / ABOUT).unlink(), 'weights.json is missing, which says what weights.safetensors needs'),
    (lambda folder: (folder / ABOUT).write_bytes(b'{}'), 'weights.json is damaged|describes other weights'),
    (lambda folder: shutil.copy(KEPT[0].with_suffix('.json'), folder / ABOUT), 'describes other weights'),
    (lambda folder: (folder / 'weights.safetensors').unlink(), 'weights.safetensors is missing: give a file'),
])
def test_what_is_missing_or_mixed_up_is_named(harm, told, trained, tmp_path):
    """With the files of one network alone, as after a download."""
    source = run_folder(Run(**TINY), trained)
    for name in 'weights.safetensors', ABOUT:
        shutil.copy(source / name, tmp_path / name)
    assert load_classifier(tmp_path).classes[0] == '0'
    harm(tmp_path)
    with pytest.raises(UserError, match=told):
        load_classifier(tmp_path)


def test_damaged_descriptions(trained, tmp_path):
    """The digest is right, and a field is not there or of another type."""
    source = run_folder(Run(**TINY), trained)
    shutil.copy(source / 'weights.safetensors', tmp_path)
    about = json.loads((source / ABOUT).read_text(encoding='utf-8'))
    for field, value in dict(mean=['a'], run=3, shape=7, classes=None).items():
        (tmp_path / ABOUT).write_text(json.dumps(about | {field: value}), encoding='utf-8')
        with pytest.raises(UserError, match=f'{ABOUT} is damaged'):
            load_classifier(tmp_path)
    (tmp_path / ABOUT).write_text(json.dumps(about | {'classes': ['0', '1']}), encoding='utf-8')
    with pytest.raises(UserError, match='weights.safetensors cannot be used'):
        load_classifier(tmp_path)


def test_kept_with_the_tables(copy):
    """`figures` keeps weights with what they need and one card of them all, and the same card without the runs."""
    results = copy / 'results'
    folder = experiment_folder('tiny', results) / 'weights'
    weights = sorted(folder.glob('*.safetensors'))
    assert weights and all(load_classifier(path).run.id == path.stem for path in weights)
    card = (folder / CARD).read_bytes()
    assert len(front_matter(folder / CARD)[0]['model-index']) == len(weights)
    shutil.rmtree(experiment_folder('tiny', results) / 'runs')
    keep_results(resolve_experiment('tiny', results), results)
    assert (folder / CARD).read_bytes() == card

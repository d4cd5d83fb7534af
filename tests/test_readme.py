"""README.md is nbs/index.ipynb, its numbers are the stored ones, and what it points to is there."""
import re

import pandas as pd

from binenc.bench import ROWS, bench_table
from binenc.figures import Results, claims_table, in_print, markdown_table
from binenc.results import read_json, stored_experiment
from helpers import REPO
from readme import render

RESULTS = REPO / 'results'
EXPERIMENTS = ['cifar10-jpeg-small', 'fashion', 'demo']
README = (REPO / 'README.md').read_text(encoding='utf-8')


def test_in_step_with_the_notebook():
    """After editing nbs/index.ipynb: make readme."""
    assert README == render()


METRICS = {'distinct codes': 'train_distinct_codes', 'same-encoding fraction': 'train_same_encoding_fraction', 'distance of peaks': 'train_peaks_distance_mean', 'NC1': 'train_within_class_variation',
           'sigma_w': 'train_sigma_w', 'train accuracy': 'train_accuracy', 'test accuracy': 'test_accuracy',
           'Mahalanobis AUROC': 'mahalanobis_auroc', 'perturbation score': 'perturbation_score'}
LABELS = {'BinEnc': 'bin_enc', 'LinPen': 'lin_pen', 'NonlinPen': 'nonlin_pen', 'NoPen': 'no_pen'}
SELECTED = pd.concat(pd.read_csv(RESULTS / name / 'selected.csv') for name in EXPERIMENTS)
TITLES = {stored_experiment(name, RESULTS).title: name for name in EXPERIMENTS}


def cells(line): return [cell.strip() for cell in line.strip('|').split('|')]


def number_rows():
    """(experiment, model, n, heading, shown) of every number in README's tables."""
    header = None
    for line in README.splitlines():
        if not line.startswith('|'): header = None
        elif header is None: header = cells(line)
        elif header[:3] == ['experiment', 'model', 'n'] and not line.startswith('|---'):
            title, model, n, *values = cells(line)
            yield from ((TITLES[title], LABELS[model], int(n), heading, value) for heading, value in zip(header[3:], values))


def test_every_number_is_the_stored_one():
    """Each `mean ± std` and n in README's tables, worked out anew from selected.csv; and none is missing."""
    rows = list(number_rows())
    assert len(rows) == len(EXPERIMENTS) * len(LABELS) * len(METRICS)
    for experiment, model, n, heading, shown in rows:
        runs = SELECTED[(SELECTED.experiment == experiment) & (SELECTED.model == model)]
        values = runs[METRICS[heading]].dropna()
        assert shown == in_print(values.mean(), values.std(), len(values)), (experiment, model, heading)
        assert n == len(runs) >= 3


def test_every_claim_is_the_stored_one():
    """The table of the paper's claims, and its verdicts, follow from the stored runs."""
    assert markdown_table(claims_table(Results(EXPERIMENTS, RESULTS))).strip() in README


def test_words_say_what_the_table_says():
    """Reproduced, not reproduced: as the sentence under the tables has it."""
    table = claims_table(Results(EXPERIMENTS, RESULTS)).set_index('BinEnc compared with the best other model')
    verdicts = table.map(lambda cell: cell.split(':')[0])
    binary, code, collapse, accurate, reliable, robust = verdicts.to_numpy().tolist()
    assert 'Reproduced on all three' in README and {*binary, *code, *collapse, *reliable} == {'yes'}
    assert 'less accurate on the images of' in README and accurate == ['no', 'undecided', 'undecided']
    assert 'does not need larger perturbations' in README and 'yes' not in robust
    fraction = SELECTED[SELECTED.model == 'bin_enc'].groupby('experiment').train_same_encoding_fraction.mean()
    assert 'fraction stays below 0.99' in README and list(fraction.index[fraction < 0.99]) == ['cifar10-jpeg-small']
    runs = pd.read_csv(RESULTS / 'cifar10-jpeg-small' / 'runs.csv')
    assert '24 runs of five minutes, 16 of them made' in README and (len(runs), runs.finished.sum()) == (24, 16)
    assert 'second learning rate was run for one replicate only' in README and runs[runs.finished & (runs.lr == 4e-3)].replicate.unique().tolist() == [0]


def test_bench_is_the_stored_one():
    """The benchmark's table is results/bench/cpu.json, and every row of it reached its goal with the same answer."""
    result = read_json(RESULTS / 'bench' / 'cpu.json')
    assert bench_table(result).strip() in README
    assert all(row['reached'] and row['same'] is not False for row in result['rows'].values())
    assert set(result['rows']) == set(ROWS)


def test_what_it_points_to_is_there():
    """Links and paths of README exist."""
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README): assert (REPO / target).exists(), target
    for path in re.findall(r'`((?:nbs|slurm|results|tests)/[\w./-]+)`', README): assert (REPO / path).exists(), path

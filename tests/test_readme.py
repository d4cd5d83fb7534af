"""README.md is nbs/index.ipynb, its numbers are the stored ones, and what it points to is there."""
import re

import pandas as pd
import pytest

from binenc.figures import in_print
from readme import REPO, render

README = (REPO / 'README.md').read_text(encoding='utf-8')


def test_in_step_with_the_notebook():
    """After editing nbs/index.ipynb: make readme."""
    assert README == render()


@pytest.mark.parametrize('name', ['table1_accuracy', 'table2_auroc', 'table3_perturbation', 'codes_demo'])
def test_tables_are_the_stored_ones(name):
    """Each table in README stands in results/demo/tables, line by line."""
    lines = (REPO / 'results' / 'demo' / 'tables' / f'{name}.md').read_text().splitlines()
    assert all(line.rstrip() in README for line in lines if line.strip())


@pytest.mark.parametrize('name', ['table1_accuracy', 'table2_auroc', 'table3_perturbation'])
def test_tables_follow_from_the_selected_runs(name):
    """Mean, deviation and n of each number, worked out anew from selected.csv."""
    selected = pd.read_csv(REPO / 'results' / 'demo' / 'selected.csv')
    metrics = {'train accuracy': 'train_accuracy', 'test accuracy': 'test_accuracy', 'Mahalanobis AUROC': 'mahalanobis_auroc',
               'misclassified': 'test_misclassified', 'perturbation score (fooled)': 'perturbation_score',
               'perturbation score (all, as the paper)': 'perturbation_score_all', 'median': 'perturbation_median', 'fooled': 'deepfool_fooled'}
    labels = {'BinEnc': 'bin_enc', 'LinPen': 'lin_pen', 'NonlinPen': 'nonlin_pen', 'NoPen': 'no_pen'}
    table = pd.read_csv(REPO / 'results' / 'demo' / 'tables' / f'{name}.csv')
    assert len(table)
    for row in table.itertuples():
        values = selected[selected.model == labels[row.model]][metrics[row.metric]]
        assert row.mean == pytest.approx(values.mean()) and row.std == pytest.approx(values.std()) and row.n == len(values) == 3
        assert in_print(values.mean(), values.std(), len(values)) in README


def test_what_it_points_to_is_there():
    """Links and paths of README exist."""
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README): assert (REPO / target).exists(), target
    for path in re.findall(r'`((?:nbs|slurm|results|tests)/[\w./-]+)`', README): assert (REPO / path).exists(), path

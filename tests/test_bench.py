"""Every row of the benchmark on tiny data: ours and the baseline give the same answer, and what is written can be
read."""

import json
import math

import pytest

from helpers import REPO, definitions_of

BENCH = definitions_of('6_running/bench.ipynb', 'bench')
bench, bench_table, ROWS = BENCH['bench'], BENCH['bench_table'], BENCH['ROWS']


@pytest.mark.parametrize('name', ROWS)
def test_row(name, tmp_path):
    """A row runs, and its answers agree where they can be compared."""
    said = []
    result = bench([name], rounds=1, say=said.append, results_dir=tmp_path, quick=True)
    row = result['rows'][name]
    assert row['same'] is (None if name in ('results', 'status') or name.startswith('logging') else True)
    assert all(math.isfinite(s) and s > 0 for s in row['seconds'].values()) and len(said) == 1
    assert said[0] in bench_table(result) and not list(tmp_path.iterdir()), 'tiny sizes are not written'


def test_what_is_stored():
    """The committed table is made of the committed numbers; every row reached its goal with the same answer."""
    stored = REPO / 'results' / 'bench'
    result = json.loads((stored / 'cpu.json').read_text(encoding='utf-8'))
    assert (stored / 'cpu.md').read_text(encoding='utf-8') == bench_table(result) and set(result['rows']) == set(ROWS)
    assert all(row['reached'] and row['same'] is not False for row in result['rows'].values())


def test_operators_of_a_step():
    """Fused steps of the optimizer save most of a small network's operators; an epoch of two batches has twice as
    many."""
    count, run = BENCH['operators'], BENCH['Run']
    images = {n: BENCH['random_images'](n, size=8, channels=1) for n in (128, 256)}
    cases = ('plain', 128), ('auto', 128), ('auto', 256)
    plain, auto, twice = (count(run(speed=speed), images[n]) for speed, n in cases)
    assert plain > 2 * auto and 1.8 * auto < twice < 2 * auto

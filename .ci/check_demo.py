"""Checks what the demo should show, after `make demo`: python .ci/check_demo.py RESULTS.

Prints each claim that fails, and exits with 1 if there is one.
"""
import sys

import pandas as pd


def claims(runs):
    """Each claim about the demo's runs, and whether it holds."""
    compressed, plain = runs[runs.model == 'bin_enc'], runs[runs.model == 'lin_pen']
    closest, farthest = compressed.train_peaks_distance_mean.min(), plain.train_peaks_distance_mean.max()
    widest, narrowest = compressed.train_sigma_w.max(), plain.train_sigma_w.min()
    return {
        'every run has finished': runs.finished.all() and len(compressed) >= 6,
        'the train accuracy of every bin_enc run is at least 0.99': (compressed.train_accuracy >= 0.99).all(),
        'the same-encoding fraction of every bin_enc run is at least 0.99':
            (compressed.train_same_encoding_fraction >= 0.99).all(),
        'every bin_enc run has 10 distinct codes': (compressed.train_distinct_codes == 10).all(),
        'the peaks of bin_enc are at least 1.5 times as far apart as those of lin_pen': closest >= 1.5 * farthest,
        'sigma_w of bin_enc is at least 100 times smaller than that of lin_pen': 100 * widest <= narrowest,
    }


if __name__ == '__main__':
    failed = [claim for claim, holds in claims(pd.read_csv(f'{sys.argv[1]}/demo/runs.csv')).items() if not holds]
    for claim in failed:
        print(f'not true: {claim}')
    print(f'{len(failed)} claims about the demo fail' if failed else 'the demo shows what it should')
    sys.exit(bool(failed))

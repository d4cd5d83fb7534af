"""What the demo has to show: python tests/check_demo.py RESULTS, after `make demo`. Exits with 1 and names what does not hold."""
import sys

import pandas as pd


def problems(runs):
    """One line for each claim that the runs do not bear out."""
    codes, others = runs[runs.model == 'bin_enc'], runs[runs.model == 'lin_pen']
    claims = {
        'every run has finished': runs.finished.all() and len(codes) >= 6,
        'train accuracy of every bin_enc run is at least 0.99': (codes.train_accuracy >= 0.99).all(),
        'same-encoding fraction of every bin_enc run is at least 0.99': (codes.train_same_encoding_fraction >= 0.99).all(),
        'every bin_enc run has 10 distinct codes': (codes.train_distinct_codes == 10).all(),
        "bin_enc's peaks are at least 1.5 times as distant as lin_pen's": codes.train_peaks_distance_mean.min() >= 1.5 * others.train_peaks_distance_mean.max(),
        "bin_enc's sigma_w is at least 100 times smaller than lin_pen's": 100 * codes.train_sigma_w.max() <= others.train_sigma_w.min(),
    }
    return [claim for claim, holds in claims.items() if not holds]


if __name__ == '__main__':
    found = problems(pd.read_csv(f'{sys.argv[1]}/demo/runs.csv'))
    for claim in found: print(f'does not hold: {claim}')
    print('the demo shows what it should' if not found else f'{len(found)} claims do not hold')
    sys.exit(bool(found))

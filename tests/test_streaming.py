"""Measures batch by batch, with torchmetrics: equal to those of all samples, in one process and in two. And retrieval
beside theirs."""

import multiprocessing

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('torchmetrics', reason='torchmetrics is not installed: pip install torchmetrics')

from torchmetrics import MetricCollection  # noqa: E402
from torchmetrics.retrieval import RetrievalMAP  # noqa: E402

from binenc import binarity, collapse, reliability  # noqa: E402
from binenc.binarity import bits  # noqa: E402
from binenc.retrieval import cosine_map, rank_by_code, retrieval_map  # noqa: E402
from binenc.streaming import CalibrationMetrics, CodeMetrics, CollapseMetrics, ReliabilityMetrics  # noqa: E402

N, NODES, CLASSES = 500, 11, 6
DRAW = torch.Generator().manual_seed(0)
Y = torch.randint(0, CLASSES - 1, (N,), generator=DRAW)  # one class does not occur
Z = torch.randn(CLASSES, NODES, generator=DRAW)[Y] + 0.1 * torch.randn(N, NODES, generator=DRAW)
SCORE, WRONG = torch.rand(N, generator=DRAW), torch.rand(N, generator=DRAW) < 0.2
CODES = binarity.class_codes(Z, Y)
ERRORS = reliability.ErrorScores(SCORE, WRONG)
# how it is made, what a batch is, the functions for all samples
CASES = {
    'codes': (lambda: CodeMetrics(NODES), (Z, Y), {
        name: getattr(binarity, name)(CODES) for name in (
            'same_encoding_fraction distinct_codes min_hamming off_code hamming_within hamming_between').split()}),
    'collapse': (lambda: CollapseMetrics(CLASSES, NODES), (Z, Y), collapse.collapse_metrics(Z, Y)),
    'reliability': (ReliabilityMetrics, (SCORE, WRONG), {
        name: getattr(reliability, name)(ERRORS) for name in 'auroc augrc aurc risk_at_80 fpr_at_95'.split()}),
    'calibration': (CalibrationMetrics, (SCORE, ~WRONG), {
        name: getattr(reliability, name)(SCORE, ~WRONG)
        for name in ('calibration_error', 'adaptive_calibration_error')}),
}


def near(found, wanted):
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9) and list(found) == list(wanted)


@pytest.mark.parametrize('name', CASES)
def test_batches_are_the_whole(name):
    """Batches of any size, twice over a reset; what came before it is forgotten."""
    make, given, wanted = CASES[name]
    metric = make()
    for size in 64, 1, N:
        for batch in zip(*(values.split(size) for values in given)):
            metric.update(*batch)
        near(metric.compute(), wanted)
        metric.reset()
    with pytest.raises(ValueError, match='call update first'), pytest.warns(UserWarning):
        metric.compute()


@pytest.mark.parametrize('name', ['codes', 'collapse'])
def test_ignored_labels(name):
    """Samples of a loss's ignore_index are left out; without one they are refused."""
    make, (z, y), wanted = CASES[name]
    metric, marked = make(), torch.cat([y, torch.full((9,), -100)])
    metric.update(torch.cat([z, torch.randn(9, NODES)]), marked)
    metric.update(z[:2], marked[-2:])  # nothing is left of this one
    near(metric.compute(), wanted)
    metric.ignore_index = None
    with pytest.raises(ValueError, match='y != -100'):
        metric.update(z[:9], marked[-9:])


def test_what_does_not_fit():
    with pytest.raises(ValueError, match='nodes=3'):
        CodeMetrics(3).update(Z, Y)
    with pytest.raises(ValueError, match='num_classes=2'):
        CollapseMetrics(2, NODES).update(Z, Y)
    with pytest.raises(ValueError, match='softmax'):
        CalibrationMetrics().update(5 * SCORE, WRONG)


def test_forward_and_collections():
    """A batch's own values from a call, as loggers want them, and several metrics at once."""
    both = MetricCollection([CodeMetrics(NODES), CollapseMetrics(CLASSES, NODES)])
    first = both(Z[:200], Y[:200])
    assert first['off_code'] == binarity.off_code(binarity.class_codes(Z[:200], Y[:200]))
    both(Z[200:], Y[200:])
    near(both.compute(), {**CASES['codes'][2], **CASES['collapse'][2]})


def part(rank, file, results):
    """One of two processes, with its share of the batches."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    found = {}
    for name, (make, given, _) in CASES.items():
        metric = make()
        metric.update(*(values[:333] if rank else values[333:] for values in given))
        found[name] = metric.compute()
    results.put(found)


def test_two_processes(tmp_path):
    """Each gets the values of all samples."""
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    processes = [context.Process(target=part, args=(rank, tmp_path / 'meet', results), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for _ in processes:
        for name, found in results.get(timeout=60).items():
            near(found, CASES[name][2])
    for process in processes:
        process.join(20)


def test_mean_average_precision_is_theirs():
    """200 queries: by cosine, where nothing is tied, to rounding; by codes, over random orders of what is tied, to four
    standard errors."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 6, generator=draw)
    y, stored_y = (torch.randint(10, (n,), generator=draw) for n in (200, 800))
    z, stored_z = (centres[labels] + torch.randn(len(labels), 6, generator=draw) for labels in (y, stored_y))
    relevant = (y[:, None] == stored_y).flatten()
    query = torch.arange(200).repeat_interleave(800)

    def theirs(scores):
        return float(RetrievalMAP()(2 + scores.flatten(), relevant, indexes=query))  # zero and less is not found there

    cosine = F.cosine_similarity(z[:, None].double(), stored_z[None].double(), dim=2)
    assert cosine_map(z, y, stored_z, stored_y) == pytest.approx(theirs(cosine), abs=1e-6)
    equal = (bits(z)[:, None] == bits(stored_z)).sum(2).double()
    orders = torch.tensor([theirs(equal + torch.rand(equal.shape, generator=draw) / 2) for _ in range(50)])
    ours = retrieval_map(rank_by_code(z, y, stored_z, stored_y))
    assert abs(ours - orders.mean()) < 4 * orders.std() / 50**.5 and orders.std() < 0.01

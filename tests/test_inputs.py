"""Every public function of the measures, whatever people have: the same numbers, or one sentence that says what to do.

One row for each function says what its arguments are; one row for each kind of input says what it makes of an argument.
"""

from collections import OrderedDict, namedtuple
from dataclasses import fields, is_dataclass
from inspect import isfunction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from binenc import attacks, binarity, collapse, detectors, geometry, inputs, openset, reliability, retrieval, robustness
from binenc.reliability import ErrorScores
from binenc.robustness import Attack, DeepFoolResult
from binenc.statistics import compare

N, NODES, CLASSES = 90, 4, 3
DRAW = torch.Generator().manual_seed(0)


def normal(*shape):
    """Numbers that bfloat16 holds, so that it rounds nothing here."""
    return torch.randn(*shape, generator=DRAW).bfloat16().float()


Y = torch.arange(N) % CLASSES
PRED = torch.where(torch.rand(N, generator=DRAW) < 0.2, (Y + 1) % CLASSES, Y)
Z = (normal(N, NODES) + 4 * normal(CLASSES, NODES)[Y]).bfloat16().float()
ZT, YT, PREDT = Z.flip(0), Y.flip(0), PRED.flip(0)
WEIGHT, MEANS, LOGITS = normal(CLASSES, NODES), normal(CLASSES, NODES), normal(N, CLASSES)
SCORES, RIGHT = normal(N), YT == PREDT
CONFIDENCE = torch.rand(N, generator=DRAW).bfloat16().float()
BITS = Z > 0
PACKED = torch.arange(N * 2, dtype=torch.uint8).reshape(N, 2)
torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, CLASSES)).eval()
X = normal(12, 6)
LABEL = NET(X).argmax(1)
STARTS = (1.5 * attacks.line_search(NET, X, LABEL, attacks.nearest_others(X, LABEL, X, LABEL))).bfloat16().float()
R = STARTS[0]
SIZE = attacks.length(R).bfloat16().float()


def draws():
    return attacks.generators(range(len(X)), 0)


# Roles: z latents, m the same where NaN is passed on, y labels, i labels that must be numbers, s scores, f flags,
# p probabilities, l logits, b bits, k packed bits, x images and what belongs to them, v one value for each image.
# name -> (function, roles, arguments, what 1e300 does to the result: 0 nothing, 1 it is as large, None anything)
Case = namedtuple('Case', 'function roles arguments power', defaults=[0])


def family(module, names, view, roles, arguments, power=0):
    """One row for functions of one view, which checks what it is made of: they share the check."""
    def measures(*values):
        seen = view(*values)
        return [getattr(module, name)(*seen) for name in names]
    place = module.__name__.removeprefix('binenc.')
    return {' '.join(f'{place}.{name}' for name in names): Case(measures, roles, arguments, power)}


def statistics(z, y):
    return [collapse.class_statistics(z, y)]


def layer(z, y, pred, zt, yt, predt, weight):
    return [geometry.Layer(geometry.class_geometry(z, y), weight, z, pred, zt, yt, predt)]


def by_code(function):
    return Case(lambda z, y, zt: function(zt, binarity.class_codes(z, y)), 'zyz', (Z, Y, ZT))


def outputs(*arrays):
    """Of a network: latents, logits, true and predicted classes, of training, of test and of unknown images."""
    return [SimpleNamespace(**dict(zip(('z', 'logits', 'y', 'pred'), part))) for part in zip(*[iter(arrays)] * 4)]


def labelled(function):
    return Case(lambda z, y: function(SimpleNamespace(z=z, y=y)), 'my', (Z, Y))


def ranking(*arrays):
    return [retrieval.rank_by_code(*arrays)]


STATISTICS = 'within_class_variation trace_quotient equiangular maxangle equinorm'.split()
FITS = 'mixture_score mixture_width peaks_distances peaks_distance_mean peaks_distance_std'.split()
CODES = 'same_encoding_fraction distinct_codes min_hamming off_code hamming_within hamming_between'.split()
GEOMETRY = 'vertex_cosine vertex_cosine_worst vertex_spread cdnv'.split()
LAYER = ('self_duality nc4_train nc4_test distance_margins distance_margin distance_margin_median one_vs_rest_margin '
         'latent_entropy').split()
DECODING = 'nearest_code_accuracy confusions_by_distance confusion_distance'.split()
ATTACK = 'mean_of_fooled mean_of_all median_of_all share_fooled'.split()
DISTANCES = 'shrunken_distances shrunken_distance tied_distance relative_distance'.split()
RELIABILITY = 'auroc misclassified risk_coverage augrc aurc risk_at_80 fpr_at_95'.split()
RETRIEVAL = 'average_precisions retrieval_map retrieval_map_100 retrieval_precision'.split()
MADE = 'real_map components_map itq_map'.split()
TWO = 'zyzy', (Z, Y, ZT, YT)
OUTPUTS = 'mlyymlyy', (Z, LOGITS, Y, PRED, ZT, LOGITS, YT, PREDT)
TRAIN_AND_TEST = 'zyymyy', (Z, Y, PRED, ZT, YT, PREDT)
CASES = {
    **family(collapse, STATISTICS, statistics, 'zy', (Z, PRED)),
    **family(collapse, ['sigma_w', 'sigma_w_trace', 'measures_of'], statistics, 'zy', (Z, PRED), None),
    'collapse.class_statistics': Case(lambda z, y: collapse.class_statistics(z, y).counts, 'zy', (Z, Y)),
    'collapse.collapse_metrics': Case(collapse.collapse_metrics, 'zy', (Z, Y), None),
    **family(binarity, FITS, lambda z: [binarity.fit_two_gaussians(binarity.standardise(z))], 'z', (Z,)),
    **family(binarity, CODES, lambda z, y: [binarity.class_codes(z, y)], 'zy', (Z, PRED)),
    'binarity.standardise': Case(binarity.standardise, 'z', (Z,)),
    'binarity.fit_two_gaussians': Case(lambda z: binarity.fit_two_gaussians(binarity.standardise(z)), 'z', (Z,)),
    'binarity.binarity_metrics': Case(binarity.binarity_metrics, 'z', (Z,)),
    'binarity.class_codes': Case(binarity.class_codes, 'zy', (Z, Y)),
    'binarity.hamming': Case(binarity.hamming, 'bb', (BITS, BITS[:5])),
    'binarity.code_agreement': Case(
        lambda z, y, zt, yt: binarity.code_agreement(binarity.class_codes(z, y), binarity.class_codes(zt, yt)),
        *TWO),
    'binarity.encoding_fraction': Case(binarity.encoding_fraction, 'zy', (Z, Y)),
    'binarity.hamming_histograms': Case(binarity.hamming_histograms, 'zy', (Z, Y)),
    'binarity.bit_balance': Case(binarity.bit_balance, 'z', (Z,)),
    'binarity.bit_correlation': Case(binarity.bit_correlation, 'z', (Z,)),
    'binarity.code_entropy': Case(binarity.code_entropy, 'z', (Z,)),
    'binarity.bits': Case(lambda z: binarity.bits(z), 'z', (Z,)),
    'binarity.packed_bits': Case(lambda z: binarity.packed_bits(z), 'z', (Z,)),
    'binarity.unpacked_bits': Case(lambda packed: binarity.unpacked_bits(packed, 13), 'k', (PACKED,)),
    'binarity.code_distances': by_code(lambda z, codes: binarity.code_distances(z, codes, soft=True)),
    'binarity.predict_by_code': by_code(lambda z, codes: as_numbered(binarity.predict_by_code(z, codes))),
    'binarity.code_score': Case(lambda z, y, zt, pred: binarity.code_score(zt, binarity.class_codes(z, y), pred),
                                'zyzy', (Z, Y, ZT, PREDT)),
    **family(geometry, GEOMETRY, lambda z, y: [geometry.class_geometry(z, y)], 'zy', (Z, PRED)),
    **family(geometry, LAYER, layer, 'zyyzyym', (Z, Y, PRED, ZT, YT, PREDT, WEIGHT)),
    **family(geometry, DECODING, lambda z, y, *test: [geometry.decode(binarity.class_codes(z, y), *test)], 'zyzyy',
             (Z, Y, ZT, YT, PREDT)),
    'geometry.class_geometry': Case(lambda z, y: geometry.class_geometry(z, y).means, 'zy', (Z, Y), 1),
    'geometry.norm_variation': Case(geometry.norm_variation, 'z', (Z,)),
    'geometry.entry_variation': Case(geometry.entry_variation, 'z', (Z,)),
    'geometry.distances_from_means': Case(geometry.distances_from_means, 'mm', (Z, MEANS), None),
    'geometry.nearest_mean_mismatch': Case(
        lambda z, y, zt, pred: geometry.nearest_mean_mismatch(geometry.class_geometry(z, y), zt, pred),
        'zyzy', (Z, Y, ZT, PREDT)),
    'geometry.decode': by_code(lambda z, codes: geometry.decode(codes, z).distance),
    'geometry.one_vs_rest': Case(geometry.one_vs_rest, 'm', (MEANS,)),
    'geometry.entropy': Case(geometry.entropy, 'z', (Z,)),
    **family(reliability, RELIABILITY, lambda score, wrong: [ErrorScores(score, wrong)], 'sf', (SCORES, ~RIGHT)),
    'reliability.fit_gaussian': Case(lambda z: reliability.fit_gaussian(binarity.standardise(z)).width, 'z', (Z,)),
    'reliability.gaussian_distance': Case(
        lambda z, zt: reliability.gaussian_distance(reliability.fit_gaussian(binarity.standardise(z)),
                                                    binarity.standardise(zt)), 'zz', (Z, ZT)),
    'reliability.fit_class_gaussians': Case(lambda z, y, pred: reliability.fit_class_gaussians(z, y, pred).scale,
                                            'zyy', (Z, Y, PRED), 1),
    'reliability.mahalanobis_distance': Case(
        lambda z, y, zt, pred: reliability.mahalanobis_distance(reliability.fit_class_gaussians(z, y, y), zt, pred),
        'zymy', (Z, Y, ZT, PREDT)),
    'reliability.mahalanobis_errors': Case(reliability.mahalanobis_errors, *TRAIN_AND_TEST),
    'reliability.mahalanobis_auroc': Case(reliability.mahalanobis_auroc, *TRAIN_AND_TEST),
    'reliability.error_auroc': Case(reliability.error_auroc, 'sf', (SCORES, ~RIGHT)),
    'reliability.selective_risk': Case(
        lambda d, w, at: reliability.selective_risk(reliability.risk_coverage(ErrorScores(d, w)), at),
        'sfv', (SCORES, ~RIGHT, torch.tensor([0.25, 0.5, 1.]))),
    'reliability.softmax_errors': Case(reliability.softmax_errors, 'ly', (LOGITS, YT)),
    'reliability.softmax_errors without labels': Case(lambda z: reliability.softmax_errors(z).distance, 'l', (LOGITS,)),
    'reliability.ood_auroc': Case(
        lambda logits, scores: reliability.ood_auroc(reliability.softmax_errors(logits), ErrorScores(scores, None)),
        'ls', (LOGITS, SCORES)),
    'reliability.calibration_error': Case(reliability.calibration_error, 'pf', (CONFIDENCE, RIGHT)),
    'reliability.adaptive_calibration_error': Case(reliability.adaptive_calibration_error, 'pf', (CONFIDENCE, RIGHT)),
    **family(detectors, DISTANCES, outputs, *OUTPUTS),
    **family(detectors, ['paper_distance', 'detector_scores'], outputs, *OUTPUTS),
    **family(detectors, ['rank_auroc'], lambda score, wrong: [ErrorScores(score, wrong)], 'sf', (SCORES, ~RIGHT)),
    'detectors.shrunken_gaussian': Case(lambda z: detectors.shrunken_gaussian(binarity.standardise(z))[1], 'z', (Z,)),
    'detectors.cross_fitted': Case(
        lambda score, wrong: detectors.cross_fitted({'one': ErrorScores(score, wrong)}).value, 'sf', (SCORES, ~RIGHT)),
    'detectors.halves': Case(lambda wrong: detectors.halves(wrong, 0), 'f', (RIGHT,)),
    'detectors.fit_scale': Case(detectors.fit_scale, 'ly', (LOGITS, YT)),
    'detectors.calibration': Case(lambda *given: detectors.calibration(*given, splits=2), 'ly', (LOGITS, YT)),
    **family(retrieval, RETRIEVAL, ranking, *TWO),
    'retrieval.rank_by_code': Case(retrieval.rank_by_code, *TWO),
    'retrieval.average_precisions_at': Case(lambda *a: retrieval.average_precisions_at(*ranking(*a), 20), *TWO),
    'retrieval.cosine_map': Case(retrieval.cosine_map, *TWO),
    'retrieval.principal_components': Case(lambda z: retrieval.principal_components(z, 2)[1], 'z', (Z,)),
    'retrieval.iterative_quantisation': Case(lambda z: retrieval.iterative_quantisation(z, 2)[1], 'z', (Z,)),
    **family(retrieval, MADE, lambda *a: [retrieval.searched(*a, 2)], *TWO),
    'retrieval.searched': Case(lambda *a: retrieval.searched(*a, 2).stored_y, *TWO),
    'retrieval.packed_distances': Case(retrieval.packed_distances, 'kk', (PACKED, PACKED[:5])),
    'openset.unknown_scores': Case(lambda *a: openset.unknown_scores(*outputs(*a)), OUTPUTS[0] + 'mlyy',
                                   (*OUTPUTS[1], Z, LOGITS, Y, PRED)),
    'openset.probe_accuracy': labelled(openset.probe_accuracy),
    'openset.unknown_code_accuracy': labelled(openset.unknown_code_accuracy),
    **family(robustness, ATTACK, lambda ratio, fooled: [Attack(ratio, fooled)], 'sf', (CONFIDENCE, RIGHT)),
    **family(robustness, ['relative_perturbation', 'perturbation_score'],
             lambda x, *result: [x, DeepFoolResult(*result)], 'xxvf', (X, R, LABEL, LABEL > 0)),
    'robustness.nearest_plane_step': Case(robustness.nearest_plane_step, 'xx', (LOGITS, normal(N, CLASSES, 5))),
}
MODEL_CASES = {
    'robustness.linearise': (robustness.linearise, 'xx', (X, torch.arange(CLASSES).repeat(len(X), 1))),
    'robustness.deepfool': (robustness.deepfool, 'x', (X,)),
    'attacks.logits_of': (attacks.logits_of, 'x', (X,)),
    'attacks.fools': (attacks.fools, 'xi', (X, LABEL)),
    'attacks.shrink': (attacks.shrink, 'xix', (X, LABEL, R)),
    'attacks.line_search': (attacks.line_search, 'xix', (X, LABEL, STARTS)),
    'attacks.fmn': (lambda *a: attacks.fmn(*a, 10), 'xix', (X, LABEL, STARTS)),
    'attacks.fmn without starts': (lambda *a: attacks.fmn(*a, steps=10), 'xi', (X, LABEL)),
    'attacks.adaptive': (lambda *a: attacks.adaptive(*a, 10), 'xix', (X, LABEL, STARTS)),
    'attacks.walks': (attacks.walks, 'xix', (X, LABEL, STARTS)),
    'attacks.transfer': (attacks.transfer, 'xix', (X, LABEL, R)),
    'attacks.ask': (attacks.ask, 'xix', (X, LABEL, STARTS)),
    'attacks.normal': (attacks.normal, 'xixxv', (X, LABEL, R, STARTS, SIZE)),
    'attacks.hop_skip_jump': (lambda *a: attacks.hop_skip_jump(*a, draws(), 300), 'xix', (X, LABEL, R)),
    'attacks.noise': (lambda *a: attacks.noise(*a, draws(), 5), 'xiv', (X, LABEL, 2 * SIZE)),
}
CASES |= {name: Case(lambda *a, f=function: f(NET, *a), roles, arguments)
          for name, (function, roles, arguments) in MODEL_CASES.items()}
CASES |= {
    'attacks.length': Case(attacks.length, 'x', (R,)),
    'attacks.each': Case(lambda v: attacks.each(v, X.numpy()), 'v', (SIZE,)),
    'attacks.smallest': Case(attacks.smallest, 'x', (STARTS,)),
    'attacks.nearest_others': Case(attacks.nearest_others, 'xixi', (X, LABEL, X, LABEL)),
    'attacks.margin': Case(attacks.margin, 'li', (LOGITS, Y)),
    'attacks.direction': Case(attacks.direction, 'x', (R,)),
    'attacks.directions': Case(lambda x: attacks.directions(x, 3, draws()), 'x', (X,)),
    'attacks.generators': Case(lambda i: [g.initial_seed() for g in attacks.generators(i, 0)], 'v', (LABEL,)),
}
NO_ARRAYS = { # of results of other functions
    'shrunken_auroc', 'tied_auroc', 'relative_auroc', 'energy_auroc', 'chosen_auroc', 'chosen_augrc', 'rescaled_ece',
    'rescaled_loss', 'add_by_class', 'cosine', 'in_double', 'require_evaluation', 'statistics_of_moments',
    'without_noise'}
MEASURES = collapse, detectors, binarity, geometry, reliability, retrieval, openset, robustness, attacks


def test_table_is_complete():
    """A function that is added needs a row."""
    public = {f'{module.__name__.removeprefix("binenc.")}.{name}' for module in MEASURES for name in module.__all__
              if isfunction(getattr(module, name)) and name not in NO_ARRAYS}
    assert public <= {name for row in CASES for name in row.split(' ')}


# ---- what people have

NAMES = np.array(['ant', 'bee', 'cat'])
TALL = 2.**997


def as_numbered(labels):
    """Names as numbers again."""
    return labels if isinstance(labels, torch.Tensor) else torch.tensor([list(NAMES).index(name) for name in labels])


def in_pandas(values):
    return pd.DataFrame(values.numpy()) if values.ndim == 2 else pd.Series(values.numpy()) if values.ndim == 1 else None


def floats(dtype):
    return lambda role, v: v.to(dtype) if v.is_floating_point() else v.to(torch.int8) if role in 'yiv' else v


def read_only(values):
    values.flags.writeable = False
    return values


def named(make):
    return lambda role, v: make(NAMES[v.numpy()]) if role == 'y' else v


GOOD = {
    'numpy': lambda role, v: v.numpy(),
    'lists': lambda role, v: v.tolist(),
    'a list of tensors': lambda role, v: list(v),
    'pandas': lambda role, v: in_pandas(v) if v.ndim < 3 else v,
    'objects of pandas': lambda role, v: in_pandas(v).astype(object) if v.ndim < 3 else v,
    'bfloat16': floats(torch.bfloat16),
    'half': floats(torch.half),
    'double': floats(torch.float64),
    'gradient': lambda role, v: v.clone().requires_grad_() if v.is_floating_point() else v,
    'big-endian': lambda role, v: v.numpy().astype(v.numpy().dtype.newbyteorder('>')),
    'reversed': lambda role, v: np.ascontiguousarray(v.numpy()[::-1])[::-1],
    'columns first': lambda role, v: np.asfortranarray(v.numpy()),
    'read-only': lambda role, v: read_only(v.numpy().copy()),
    'long double': lambda role, v: v.numpy().astype(np.longdouble) if v.is_floating_point() else v.numpy(),
    'masked nowhere': lambda role, v: np.ma.array(v.numpy()),
    'numbers for flags': lambda role, v: v.int() if role in 'fb' else v,
    'other integers': lambda role, v: v.numpy().astype(np.uint16) if role in 'yi' else v,
    'names': named(list),
    'names in numpy': named(np.asarray),
    'names in pandas': named(pd.Series),
    'categories of pandas': named(lambda names: pd.Series(names, dtype='category')),
    '1e300': lambda role, v: v.double() * TALL if role in 'zm' else v,
    '1e-300': lambda role, v: v.double() / TALL if role in 'zm' else v,
}
if torch.cuda.is_available():
    GOOD['on a GPU'] = lambda role, v: v.cuda()


def numbers(result):
    """All numbers of a result, in order."""
    if is_dataclass(result):
        result = [getattr(result, f.name) for f in fields(result) if f.name not in ('names', 'unit')]
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return np.concatenate([numbers(part) for part in result])
    result = result.detach().cpu() if isinstance(result, torch.Tensor) else result
    return np.atleast_1d(np.asarray(result, dtype=np.float64)).ravel()


@pytest.mark.parametrize('name', CASES)
@pytest.mark.filterwarnings('error')
def test_every_kind_gives_the_same(name):
    """As tensors do, to rounding; latents of 1e300 where nothing depends on their size."""
    case = CASES[name]
    wanted = numbers(case.function(*case.arguments))
    for kind, make in GOOD.items():
        made = [*map(make, case.roles, case.arguments)]
        if all(new is old for new, old in zip(made, case.arguments)):
            continue  # a kind of what it does not take
        found = numbers(case.function(*made))
        factor = {'1e300': TALL, '1e-300': 1 / TALL}.get(kind, 1)
        if factor != 1 and case.power is None:
            assert not np.isnan(found).any(), kind
            continue
        np.testing.assert_allclose(found / factor**(case.power or 0), wanted, rtol=1e-4, atol=1e-5, err_msg=kind)


# ---- what cannot be used

def with_value(value, dtype=None):
    def make(v):
        v = (v if dtype is None else v.to(dtype)).clone()
        v.view(-1)[1] = value
        return v
    return make


ANY = {
    'masked': (lambda v: np.ma.array(v.numpy(), mask=np.arange(v.numel()).reshape(v.shape) == 1), 'masked'),
    'complex': (lambda v: v.to(torch.complex64), 'real numbers'),
    'sparse': (lambda v: v.to_sparse(), 'dense'),
    'dates': (lambda v: np.zeros(v.shape, 'datetime64[D]'), 'real numbers'),
    'ragged': (lambda v: [[1], [1, 2]], 'array of numbers'),
    'nothing': (lambda v: object(), 'real numbers'),
}
MATRIX = {
    'text': (lambda v: np.full(v.shape, 'a'), 'real numbers'),
    '(n, h, w, c)': (lambda v: v.reshape(len(v), 1, 1, -1), 'flatten'),
}
LABELS = {
    '-100': (with_value(-100), 'y != -100'),
    'one-hot': (lambda v: torch.eye(CLASSES)[v], 'argmax'),
    'a column': (lambda v: v[:, None], 'y[:, 0]'),
    'short': (lambda v: v[:-1], 'one label per sample'),
    'floats': (lambda v: v.float(), 'integers'),
}
BAD = {
    'm': ANY | {kind: bad for kind, bad in MATRIX.items() if kind == 'text'},
    'z': ANY | MATRIX | {'NaN': (with_value(np.nan), 'finite'), 'infinite': (with_value(np.inf), 'finite')},
    'l': ANY,
    'b': ANY | {'signs': (lambda v: 2. * v - 1, 'z > 0')},
    'k': ANY | {'too large': (with_value(300, torch.int64), 'from 0 to 255'), 'floats': (torch.Tensor.float, 'whole')},
    'y': ANY | LABELS,
    'i': ANY | LABELS | {'names': (lambda v: np.full(len(v), 'a'), 'number of each class')},
    's': ANY | {'a column': (lambda v: v[:, None], 'one number per sample')},
    'f': ANY | {'labels': (with_value(2, torch.int64), 'true or false')},
    'p': ANY | {'percent': (lambda v: 100 * v, 'divide percentages'), 'logits': (lambda v: v - 3, 'softmax')},
    'x': ANY,
    'v': ANY,
}


def refusals(case):
    """(kind, place, arguments, word) of everything that a function must refuse."""
    for place, role in enumerate(case.roles):
        for kind, (make, word) in BAD[role].items():
            changed = make(case.arguments[place])
            yield kind, place, (*case.arguments[:place], changed, *case.arguments[place + 1:]), word


@pytest.mark.parametrize('name', CASES)
def test_every_function_refuses_in_one_sentence(name):
    """A ValueError that names what is wrong, in each argument."""
    case = CASES[name]
    for kind, place, arguments, word in refusals(case):
        with pytest.raises(ValueError) as caught:
            case.function(*arguments)
            pytest.fail(f'{kind} as argument {place} was accepted')
        said = str(caught.value)
        assert word in said and '\n' not in said, f'{kind} as argument {place}: {said}'


# ---- what models return

ModelOutput = type('ModelOutput', (OrderedDict,), {'__getattr__': OrderedDict.__getitem__})  # as Hugging Face has it
Named = namedtuple('Named', 'logits aux_logits')  # as torchvision's Inception has it
OUTPUTS = {
    '1-tuple': lambda logits, z: (logits,),
    'pair': lambda logits, z: (logits, z),
    '3-tuple': lambda logits, z: (logits, z, None),
    'list': lambda logits, z: [logits, z],
    'loss first': lambda logits, z: (logits.mean(), logits, z),
    'dict': lambda logits, z: {'loss': logits.mean(), 'logits': logits, 'hidden': z},
    'ModelOutput': lambda logits, z: ModelOutput(loss=logits.mean(), logits=logits),
    'named tuple': lambda logits, z: Named(logits, z),
}


class Returning(nn.Module):
    """The network, in a framework of its own."""

    def __init__(self, output):
        super().__init__()
        self.net, self.output = NET, output

    def forward(self, x):
        z = self.net[:2](x)
        return self.output(self.net[2](z), z)


@pytest.mark.parametrize('name', MODEL_CASES)
def test_every_output_of_a_model(name):
    """The same as for logits alone."""
    function, _, arguments = MODEL_CASES[name]
    wanted = numbers(function(NET, *arguments))
    for kind, output in OUTPUTS.items():
        found = numbers(function(Returning(output).eval(), *arguments))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize('output, word', [(lambda logits, z: {'out': logits}, "['out']"),
                                          (lambda logits, z: None, 'NoneType'), (lambda logits, z: (), 'tuple')])
def test_output_without_logits(output, word):
    """One sentence says what a model must return."""
    for function, _, arguments in MODEL_CASES.values():
        with pytest.raises(ValueError, match='a model must return logits') as caught:
            function(Returning(output).eval(), *arguments)
        assert word in str(caught.value)


def test_images_go_to_the_model():
    """In its precision; a callable without weights gets floats."""
    assert inputs.as_images(X.numpy().astype(float), NET).dtype == torch.float32
    assert inputs.as_images(X, nn.Linear(6, 3).double()).dtype == torch.float64
    assert inputs.as_images(X, nn.Linear(6, 3).bfloat16()).dtype == torch.float32  # the model's own business
    assert inputs.as_images(X.bfloat16(), nn.Linear(6, 3).bfloat16()).dtype == torch.bfloat16
    assert inputs.as_images([[1, 2]], lambda x: x).dtype == torch.float32


# ---- what has no row above

def test_names_are_kept_and_numbered_together():
    """True and predicted names of one data set, and those of another that has more classes."""
    y, yt, predt = (NAMES[labels.numpy()] for labels in (Y, YT, PREDT))
    codes = binarity.class_codes(Z, y)
    assert codes.names == ('ant', 'bee', 'cat') == geometry.class_geometry(Z, y).names
    decoding = geometry.decode(codes, ZT, np.where(yt == 'cat', 'aardvark', yt), predt)  # it was not in the fit
    wanted = geometry.decode(binarity.class_codes(Z, Y), ZT, torch.where(YT == 2, 3, YT), PREDT)
    assert decoding.y.equal(wanted.y)
    assert geometry.nearest_code_accuracy(decoding) == geometry.nearest_code_accuracy(wanted)
    for function, arguments, said in (
            (geometry.decode, (codes, Z, Y), 'labels are numbers, but those of the fit were names'),
            (reliability.fit_class_gaussians, (Z, y, PRED), 'some labels are names and others numbers'),
            (reliability.softmax_errors, (LOGITS[:2], ['ant', 'cat']), '2 of them')):
        with pytest.raises(ValueError, match=said):
            function(*arguments)


def test_scores_without_labels():
    """They can be told from others; what needs labels says so."""
    scores = reliability.softmax_errors(LOGITS)
    assert reliability.ood_auroc(scores, reliability.softmax_errors(LOGITS / 2)) > 0.5
    for measure in (reliability.auroc, reliability.augrc, reliability.fpr_at_95, reliability.misclassified):
        with pytest.raises(ValueError, match='no labels'):
            measure(scores)
    with pytest.raises(ValueError, match=r'decode\(codes, z, y, pred\)'):
        geometry.confusion_distance(geometry.decode(binarity.class_codes(Z, Y), Z, Y))


@pytest.mark.parametrize('attack', [attacks.fmn, attacks.adaptive, attacks.walks])
def test_walks_from_zeros_or_nowhere(attack):
    """The exact distance of a linear classifier of two classes, also of an image that is zero."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 2).eval()
    x = torch.cat([X, torch.zeros(1, 6)])
    logits, weight = linear(x).detach().diff(dim=1).abs().squeeze(1), linear.weight.detach().diff(dim=0).norm()
    for starts in None, torch.zeros(1, *x.shape), torch.zeros(0, *x.shape):
        found = attacks.length(attack(linear, x, linear(x).argmax(1), starts))
        torch.testing.assert_close(found, logits / weight, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r'must be \(S, 13, 6\)'):
        attack(linear, x, linear(x).argmax(1), x)


@pytest.mark.parametrize('kind', [tuple, np.array, torch.tensor, lambda x: torch.tensor(x).bfloat16(), pd.Series])
def test_replicates_of_any_kind(kind):
    """Numbers that bfloat16 holds, whose differences it does not."""
    ours, others = [256., 255., 254.], [65 / 128, 67 / 128, 69 / 128]
    for paired in True, False:
        assert compare(kind(ours), kind(others), paired=paired) == compare(ours, others, paired=paired)

"""The layer as a scikit-learn estimator."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import check_estimator

from binenc.binarity import predict_by_code
from binenc.estimator import BinaryEncodingClassifier
from binenc.reliability import error_auroc

X, Y = load_digits(return_X_y=True)
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = train_test_split(X, Y, random_state=0)


@pytest.fixture(scope='module')
def fitted():
    return BinaryEncodingClassifier(random_state=1).fit(X_TRAIN, Y_TRAIN)


def test_scikit_learn_finds_nothing_to_say():
    """Its own sixty checks, on short trainings."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the checks bring infinite and constant features
        checks = check_estimator(BinaryEncodingClassifier(steps=100, lr=1e-2, hidden=16), on_fail='raise', on_skip=None)
    assert len(checks) > 40 and {check['status'] for check in checks} <= {'passed', 'skipped', 'xfail'}
    assert sum(check['status'] != 'passed' for check in checks) <= 2  # array API, if it is switched off


def test_digits(fitted):
    """Ten codes, nearly all samples on theirs, and mistakes among the least reliable."""
    assert fitted.score(X_TEST, Y_TEST) > 0.94
    assert fitted.codes_.distinct == 10 and fitted.codes_.share.mean() > 0.95
    bits = fitted.transform(X_TEST)
    assert bits.shape == (len(X_TEST), 4) and bits.dtype == np.uint8 and set(bits.flat) == {0, 1}
    assert np.array_equal(bits, fitted.latents(X_TEST) > 0)
    pred = fitted.predict(X_TEST)
    assert np.array_equal(pred, fitted.predict_proba(X_TEST).argmax(1))
    assert error_auroc(-fitted.reliability(X_TEST), pred != Y_TEST) > 0.8
    by_code = predict_by_code(fitted.latents(X_TEST), fitted.codes_).numpy()
    assert (by_code == pred).mean() > 0.9


def test_one_random_state_one_network(fitted):
    """The same number again, in a clone and from a pickle; nobody else's random numbers are drawn."""
    few = clone(fitted).set_params(steps=50)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = few.fit(X_TRAIN, Y_TRAIN).latents(X_TEST)
    assert torch.rand(2).equal(expected)
    assert np.array_equal(clone(few).fit(X_TRAIN, Y_TRAIN).latents(X_TEST), first)
    assert not np.array_equal(clone(few).set_params(random_state=2).fit(X_TRAIN, Y_TRAIN).latents(X_TEST), first)
    assert np.array_equal(pickle.loads(pickle.dumps(few)).latents(X_TEST), first)


def test_images_and_names():
    """Small images are flattened; names are classes, and the codes know them."""
    names = np.array(['zero', 'one'])
    some = Y_TRAIN < 2
    images = torch.tensor(X_TRAIN[some].reshape(-1, 8, 8))
    encoder = BinaryEncodingClassifier(nodes=2, steps=200, random_state=0).fit(images, names[Y_TRAIN[some]])
    assert encoder.score(images, names[Y_TRAIN[some]]) > 0.99 and encoder.classes_.tolist() == ['one', 'zero']
    assert encoder.codes_.names == ('one', 'zero') and encoder.predict(images[:1])[0] in names


def test_bad_parameters_say_so():
    """No steps, no bits, other features than before."""
    with pytest.raises(ValueError, match='steps=0'):
        BinaryEncodingClassifier(steps=0).fit(X_TRAIN, Y_TRAIN)
    with pytest.raises(ValueError, match='nodes=0'):
        BinaryEncodingClassifier(nodes=0).fit(X_TRAIN, Y_TRAIN)
    with pytest.raises(ValueError, match='features'):
        BinaryEncodingClassifier(steps=50).fit(X_TRAIN, Y_TRAIN).predict(X_TEST[:, :3])


@pytest.mark.parametrize('size, offset', [(1., 1.7e9), (1e-25, 0.), (1e25, 0.)])
def test_features_of_any_size(size, offset):
    """Unix times, and numbers that float32 does not have, are learned as others are."""
    few = BinaryEncodingClassifier(steps=300, random_state=0)
    assert few.fit(X_TRAIN * size + offset, Y_TRAIN).score(X_TEST * size + offset, Y_TEST) > 0.9


@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(batch_size=2.5), dict(hidden=-1), dict(hidden=None),
                                   dict(steps=2.5)])
def test_sizes_that_are_none(wrong):
    """They are refused before the training."""
    with pytest.raises(ValueError, match=f'^{next(iter(wrong))}=.*: it must be a whole number of at least'):
        BinaryEncodingClassifier(**wrong).fit(X_TRAIN, Y_TRAIN)


def test_what_scikit_learn_and_torch_may_be_set_to(fitted):
    """Tables as output, no gradients, double precision; the one label that stands for nothing is refused."""
    table = clone(fitted).set_params(steps=10).set_output(transform='pandas').fit(X_TRAIN, Y_TRAIN).transform(X_TEST)
    assert list(table.columns) == [f'binaryencodingclassifier{i}' for i in range(4)]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            clone(fitted).set_params(steps=10).fit(X_TRAIN, Y_TRAIN)
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match='a class is -100, which marks samples to leave out'):
        fitted.fit(X_TRAIN, np.where(Y_TRAIN, Y_TRAIN, -100))

"""Codes as a tool: the class of a new image by its bits, in all cases that can occur."""

import numpy as np
import pytest
import torch

from binenc.binarity import (
    UNKNOWN,
    bits,
    class_codes,
    code_distances,
    code_score,
    hamming,
    packed_bits,
    predict_by_code,
    unpacked_bits,
)

CUBE = torch.cartesian_prod(*[torch.tensor([-1., 1.])] * 4)


@pytest.mark.parametrize('nodes', [1, 4, 8, 9, 64, 2048])
def test_packing(nodes):
    """As few bytes as hold them, the same bits again."""
    z = torch.randn(7, nodes, generator=torch.Generator().manual_seed(0))
    packed = packed_bits(z)
    assert packed.shape == (7, -(-nodes // 8)) and packed.dtype == np.uint8
    assert unpacked_bits(packed, nodes).equal(bits(z))
    with pytest.raises(ValueError, match='uint8'):
        unpacked_bits(packed, nodes + 8)


def test_classes_that_are_on_their_code():
    """Every sample that is on its code, and only its class has it, gets its class; the rest by hand."""
    codes = class_codes(CUBE[:10], torch.arange(10))
    assert predict_by_code(3 * CUBE[:10], codes).tolist() == list(range(10))
    assert predict_by_code(CUBE, codes, within=0).tolist() == [*range(10), *[UNKNOWN] * 6]
    known = predict_by_code(CUBE, codes, within=1)
    distance = hamming(bits(CUBE), codes.bits)
    assert ((known == UNKNOWN) == (distance.amin(1) > 1)).all()
    assert distance[torch.arange(16), predict_by_code(CUBE, codes)].equal(distance.amin(1))


def test_ties():
    """The bit that is least certain decides; classes of one code are the smaller label's; or there is no answer."""
    codes = class_codes(CUBE[[0, 3]], torch.tensor([7, 2]))  # ---- and --++, the first of class 7
    z = torch.tensor([[-1., -1., -2., 1.], [-1., -1., 2., -1.], [-1., -1., -1., 1.]])
    assert code_distances(z, codes).tolist() == [[1, 1]] * 3
    assert predict_by_code(z, codes).tolist() == [7, 2, 2]
    assert predict_by_code(z, codes, ties=False).tolist() == [UNKNOWN] * 3
    same = class_codes(CUBE[[5, 5]], torch.tensor([4, 1]))
    assert predict_by_code(CUBE[[5]], same).tolist() == [1]
    assert predict_by_code(CUBE[[5]], same, ties=False).tolist() == [UNKNOWN]


def test_soft_distance_is_the_cosine():
    """Whatever the size of the latents, those of zero included."""
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    codes = class_codes(CUBE, torch.arange(16))
    wanted = 1 - torch.nn.functional.cosine_similarity(z[:, None].double(), CUBE[None].double(), dim=2)
    for size in 1., 1e-300, 1e300:
        torch.testing.assert_close(code_distances(z.double() * size, codes, soft=True), wanted)
    assert code_distances(torch.zeros(1, 4), codes, soft=True).eq(1).all()
    assert code_score(z, codes).equal(code_distances(z, codes, soft=True).amin(1))
    own = torch.arange(30) % 16
    assert code_score(z, codes, own, soft=False).equal(hamming(bits(z), codes.bits)[torch.arange(30), own])

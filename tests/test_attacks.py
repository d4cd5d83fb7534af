"""Attacks against independent implementations, on networks that mask their gradients, and after an interruption."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from binenc import restored
from binenc.attacks import (
    adaptive,
    fmn,
    fools,
    generators,
    hop_skip_jump,
    length,
    line_search,
    nearest_others,
    noise,
    transfer,
    walks,
)
from binenc.errors import UserError
from binenc.execute import states
from binenc.experiment import expand
from binenc.files import SUMS, check_stored, table_path
from binenc.restored import attack_run
from binenc.run import Run
from binenc.store import ATTACKS, ROW, TABLE, WEIGHTS, is_attacked, run_folder, stored_experiment, stored_rows
from binenc.tables import attack_numbers, wins
from helpers import TINY

IMAGES = 8


class Wrapped(nn.Module):
    """A function as a module in evaluation mode."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


def logits_of(model):
    """A classifier that returns logits only."""
    return Wrapped(lambda x: model(x)[0])


def staircase(model):
    """Rounds its input: the gradient is 0 everywhere."""
    return Wrapped(lambda x: model((8 * x).round() / 8)[0])


def saturated(model):
    """The softmax of huge logits: 0 or 1 to the last bit, and flat, except next to the boundary."""
    return Wrapped(lambda x: (1e4 * model(x)[0]).softmax(1))


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Results folder of two runs of one replicate, trained until they are right about most images."""
    from binenc.training import train

    folder = tmp_path_factory.mktemp('attacked')
    for run in pair():
        train(run, folder)
    return folder


def pair():
    """The run that is attacked, and the one whose perturbations are transferred."""
    run = Run(**{**TINY, 'epochs': 20})
    return run, replace(run, model='lin_pen')


@pytest.fixture
def digits(results):
    """A network, images that it classifies correctly, their classes, and perturbations found by line search."""
    trained = restored.load_run(pair()[0], results)
    model, target = logits_of(trained.classifier), restored.Target(trained, 40)
    right = target.true == target.predicted
    x, y = target.x[right], target.true[right]
    return model, x, y, line_search(model, x, y, nearest_others(x, y, *target.pool))


def foolbox_distances(attack, model, x, y):
    """What an attack of foolbox finds, infinite where it failed."""
    foolbox = pytest.importorskip('foolbox')
    fmodel = foolbox.PyTorchModel(model, bounds=(-1e2, 1e2), device='cpu')
    _, adversarial, success = attack(fmodel, x, y, epsilons=None)
    return torch.where(success, length(adversarial - x), torch.inf)


def test_fmn_is_as_good_as_independent_attacks(digits):
    """foolbox's decoupled direction and norm (DDN), and its attack of Carlini and Wagner."""
    foolbox = pytest.importorskip('foolbox')
    model, x, y, starts = digits
    assert len(starts) == 9, 'one for each other class'
    found = fmn(model, x, y, starts[:3], 100)
    ours = length(found)
    assert fools(model, x + (1 + 1e-5) * found, y).all()  # clearly across the boundary
    for theirs in (
        foolbox_distances(foolbox.attacks.DDNAttack(steps=300, init_epsilon=2.0), model, x, y),
        foolbox_distances(
            foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=200, stepsize=0.05), model, x, y
        ),
    ):
        assert theirs.isfinite().float().mean() > 0.9
        assert ours.median() < 1.01 * theirs.median() and (ours < 1.05 * theirs).float().mean() > 0.9
        assert (theirs > 0.7 * ours).all()


def test_a_start_that_rounding_put_inside(digits):
    """It is on the boundary but does not fool: it is lengthened a little, and not given up."""
    model, x, y, starts = digits
    x, y, start = x[:5], y[:5], (1 - 1e-4) * starts[0, :5]
    assert not fools(model, x + start, y).any()
    found = length(hop_skip_jump(model, x, y, start, generators(torch.arange(5), 0), 500))
    assert (found < length(starts[0, :5])).all()


@pytest.mark.parametrize('mask', [staircase, saturated])
def test_masked_gradients_fool_deepfool_but_not_the_minimum(mask, results, monkeypatch):
    """DeepFool finds nothing and reports a robust network. The minimum over attacks finds perturbations of about the
    size that fools the network without the mask, and where all gradients are 0 it says that they were of no use."""
    run, _ = pair()
    trained = restored.load_run(run, results)
    plain = attack_numbers(attack_run(run, None, 50, True, results, say=list).assign(id='plain')).loc['plain']
    masked = replace(trained, classifier=mask(trained.classifier))
    monkeypatch.setattr(restored, 'load_run', lambda *_: masked)
    monkeypatch.setattr(restored, 'evaluate', lambda model, loader: SimpleNamespace(
        pred=torch.cat([model(x).argmax(1) for x, _ in loader.in_order()])))
    rows = attack_run(run, None, 50, True, results, say=list)
    masked = attack_numbers(rows.assign(id='masked')).loc['masked']
    assert plain.deepfool_share == 1 and masked.deepfool_share < 0.1
    assert plain.gradient_free_wins == 0 and masked.attacked_images > 25
    # decisions alone find larger ones: HopSkipJump attacks 20 of the images, the others have line searches
    assert 0.8 < masked.smallest_perturbation_median / plain.smallest_perturbation_median < 2.5
    assert mask is saturated or masked.gradient_free_wins > 0.5 * masked.attacked_images


def test_broken_networks_are_not_fooled():
    """NaN, and one class for everything: nothing is found, and nothing is NaN."""
    x, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    constant = torch.tensor([2.0, 1.0, 0.0])
    for model in (lambda x: torch.full((len(x), 3), torch.nan), lambda x: constant.repeat(len(x), 1)):
        starts = line_search(model, x, y, nearest_others(x, y, x, y))
        draws = generators(torch.arange(6), 0)
        found = [starts[0], fmn(model, x, y, starts, 5), adaptive(model, x, y, starts, 5), walks(model, x, y, starts)]
        found += [transfer(model, x, y, x), noise(model, x, y, length(x), draws)]
        found.append(hop_skip_jump(model, x, y, starts[0], draws, 500))
        assert all(length(r).isposinf().all() for r in found)


def test_starts_go_to_ten_classes():
    """The nearest ones, of as many as there are."""
    pool = torch.arange(1., 15)[:, None]
    starts = nearest_others(torch.zeros(2, 1), torch.tensor([0, 3]), pool, torch.arange(1, 15))
    assert starts[:, 0, 0].tolist() == [*range(1, 11)] and starts[:, 1, 0].tolist() == [1, 2, *range(4, 12)]


class Killed(BaseException):
    """What ends a process from outside."""


def test_interrupted_attacks_continue(results):
    """Ended after any of its batches, a run's attacks continue: none is made twice, and the table is the same to the
    byte as without interruption."""
    run, source = pair()
    folder, said, again = run_folder(run, results), [], []
    attack_run(run, source, IMAGES, True, results, say=said.append)
    whole = (folder / TABLE).read_bytes()
    assert len(said) == sum(kind.made for kind in ATTACKS.values()) and all(line.startswith('batch ') for line in said)

    def die(line):
        again.append(line)
        if len(again) < len(said):
            raise Killed

    for number in range(len(said)):
        try:
            attack_run(run, source, IMAGES, not number, results, say=die)
        except Killed:
            assert not folder.owner and not is_attacked(run, IMAGES, source, results)
    assert again == said and is_attacked(run, IMAGES, source, results)
    assert (folder / TABLE).read_bytes() == whole and TABLE in (folder / SUMS).read_text(encoding='utf-8')
    assert not check_stored(folder.path)
    attack_run(run, source, IMAGES, False, results, say=again.append)
    assert again == said


def test_more_images_continue(results):
    """What was found on fewer images stays; the numbers of an image do not depend on how many are attacked."""
    run, source = pair()
    few = attack_run(run, source, 3, True, results, say=list)
    more = attack_run(run, source, IMAGES, False, results, say=list)
    at_once = attack_run(run, source, IMAGES, True, results, say=list)
    key = ['attack', 'image']
    assert more.iloc[: len(few)].equals(few) and not more.duplicated(key).any()
    both = more.merge(at_once, on=key)
    assert len(both) == len(more) == len(at_once)
    assert (both.relative_x / both.relative_y - 1).abs().fillna(0).replace(float('inf'), 0).max() < 0.05


def test_rows_of_other_weights_do_not_count(results, tmp_path):
    """A run that was trained again is attacked again; a damaged table is refused."""
    run, source = pair()
    attack_run(run, source, IMAGES, False, results, say=list)
    shutil.copytree(results, tmp_path / 'copy')
    folder = run_folder(run, tmp_path / 'copy')
    assert not stored_rows(run, tmp_path / 'copy').empty
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b' ')
    assert stored_rows(run, tmp_path / 'copy').empty and not is_attacked(run, 1, source, tmp_path / 'copy')
    (folder / SUMS).unlink()
    (folder / TABLE).write_bytes(b'id\n1\n')
    with pytest.raises(UserError, match='damaged'):
        stored_rows(run, tmp_path / 'copy')


def test_one_percent_decides_who_wins():
    """A perturbation that is shorter by less than 1% is no win."""
    columns = dict.fromkeys(ATTACKS, float('nan'))
    wide = pd.DataFrame([columns | {'fmn_200': 1.0, 'hop_skip_jump': d} for d in (0.98, 0.995, 2.0, float('inf'))])
    assert wins(wide, 'decisions') == 1 and wins(wide, 'other') == 0


def test_command(copy, command, draw_here):
    """In a clone, which has tables and weights but no folders of runs: attacks, table and figure; the second time
    nothing is done; finished runs stay finished, and figures draw the attacks again. Without weights it says so."""
    results = copy / 'results'
    shutil.rmtree(results / 'tiny' / 'runs')
    done = command('attack', 'tiny', '--images', 3, '--jobs', 1, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '8 of 8 selected runs have stored weights' in done.stdout and '| attacked images |' in done.stdout
    stored = table_path(results / 'tiny', TABLE)
    table, rows = stored.read_bytes(), pd.read_csv(stored)
    assert list(rows) == ['id', *ROW] and rows.id.nunique() == 8 and not check_stored(results / 'tiny')
    assert (rows[rows.attack == 'transfer'].id.nunique(), len(rows[rows.attack == 'walks'])) == (6, 24)
    assert {state for state, _ in states(expand(stored_experiment('tiny', results)), results)} == {'finished'}
    drawn = [results / 'tiny' / name for name in ('tables/attacks.md', 'tables/attacks.csv', 'figures/attacks.png')]
    before = [path.read_bytes() for path in drawn]
    again = command('attack', 'tiny', '--images', 3, '--jobs', 1, cwd=copy)
    assert again.returncode == 0 and 'runs to do' not in again.stdout
    for path in drawn:
        path.unlink()
    assert command('figures', 'tiny', '--jobs', 1, cwd=copy).returncode == 0
    assert [path.read_bytes() for path in drawn] == before and stored.read_bytes() == table
    shutil.rmtree(results / 'tiny' / 'runs')
    shutil.rmtree(results / 'tiny' / 'weights')
    stored.unlink()
    done = command('attack', 'tiny', cwd=copy)
    assert done.returncode == 1 and 'no selected run of tiny has stored weights' in done.stderr

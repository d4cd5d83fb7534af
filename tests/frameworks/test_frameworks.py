"""The layer in timm, Hugging Face, peft, Lightning, accelerate and ONNX.

In an environment of its own (tests/frameworks/requirements.lock), and not among the tests that pytest finds by itself:
    python -m pytest --confcutdir tests/frameworks tests/frameworks      # with this repository on PYTHONPATH
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import onnxruntime
import peft
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
from accelerate import init_empty_weights
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.feature_extraction import create_feature_extractor

from binenc.attaching import attach, keep_latents, last_linear, latents
from binenc.binarity import class_codes, encoding_fraction
from binenc.errors import UserError
from binenc.frameworks import CompressedLoss, lightning_callback
from binenc.head import BinaryEncodingHead, compression_loss
from binenc.schedules import GammaSchedule

REPO = Path(__file__).parents[2]
torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WORDS = dict(input_ids=torch.tensor([[1, 5, 7, 2], [1, 9, 3, 2]]))
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=10)


def hf_vit(**other):
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL | dict(image_size=32, patch_size=8) | other))


def hf_resnet():
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=10))


def hf_bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=20, **SMALL))


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 32, num_classes=10)


MODELS = {
    'torchvision resnet': (lambda: torchvision.models.resnet18(num_classes=10), 'fc'),
    'torchvision vit': (torchvision_vit, 'heads.head'),
    'torchvision mobilenet': (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), 'classifier.3'),
    'torchvision convnext': (lambda: torchvision.models.convnext_tiny(num_classes=10), 'classifier.2'),
    'timm resnet': (lambda: timm.create_model('resnet10t', num_classes=10), 'fc'),
    'timm vit': (lambda: timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=10), 'head'),
    'timm mobilenet': (lambda: timm.create_model('mobilenetv3_small_050', num_classes=10), 'classifier'),
    'timm convnext': (lambda: timm.create_model('convnext_atto', num_classes=10), 'head.fc'),
    'HF vit': (hf_vit, 'classifier'),
    'HF resnet': (hf_resnet, 'classifier.1'),
    'HF bert': (hf_bert, 'classifier'),
}


def logits_of(model, images=IMAGES):
    """As each framework gives them."""
    if not isinstance(model, transformers.PreTrainedModel):
        return model(images)
    words = isinstance(model, transformers.BertForSequenceClassification)
    return (model(**WORDS) if words else model(pixel_values=images)).logits


@pytest.mark.parametrize('name', MODELS)
def test_attach_finds_the_last_layer_of(name):
    """Its output is of the same type and shape, and every gradient arrives."""
    build, path = MODELS[name]
    torch.manual_seed(0)
    model = build()
    assert last_linear(model) == path
    attach(model, nodes=4, num_classes=12)
    logits = logits_of(model)
    assert logits.shape == (2, 12)
    z = latents(model)
    assert z.shape == (2, 4)
    (logits.square().mean() + compression_loss(z)).backward()
    head = model.get_submodule(path)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_two_classifiers_of_timm_are_asked_about():
    """A distilled network has two; so has one of torchvision with an auxiliary classifier."""
    model = timm.create_model('deit_tiny_distilled_patch16_224', img_size=32, num_classes=10)
    with pytest.raises(UserError, match=r"'head' \(192 to 10\), 'head_dist' \(192 to 10\)"):
        attach(model)
    googlenet = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    with pytest.raises(UserError, match='fc'):
        attach(googlenet)
    assert attach(googlenet, where='fc').fc.nodes == 4


def test_labels_of_another_number_in_hugging_face():
    """The loss inside the model knows the new number of classes."""
    model = attach(hf_vit(), nodes=5, num_classes=17)
    assert model.config.num_labels == 17
    assert model(pixel_values=IMAGES, labels=torch.tensor([16, 3])).loss.isfinite()


def test_features_of_torchvision():
    """`create_feature_extractor` reaches the latents of a head and of an attached one."""
    model = attach(torchvision.models.resnet18(num_classes=10), nodes=4).eval()
    found = create_feature_extractor(model, {'fc.penultimate': 'z', 'fc': 'logits'})(IMAGES)
    with torch.no_grad(), keep_latents(model):
        torch.testing.assert_close(found['logits'], model(IMAGES))
        torch.testing.assert_close(found['z'], latents(model))
    network = nn.Sequential(nn.Flatten(), BinaryEncodingHead(3072, 4, 10))
    assert create_feature_extractor(network, ['1.penultimate'])(IMAGES)['1.penultimate'].shape == (2, 4)


@pytest.mark.parametrize('targets', [['penultimate.0'], ['penultimate.0', 'output']])
@pytest.mark.parametrize('is_attached', [False, True])
def test_lora_of_peft(targets, is_attached):
    """Gradients arrive at the adapters, and the adapters change the logits."""
    torch.manual_seed(0)
    if is_attached:
        model = attach(nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Linear(16, 10)))
    else:
        model = nn.Sequential(nn.Flatten(), BinaryEncodingHead(3072, 4, 10))
    place = '2' if is_attached else '1'
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[f'{place}.{name}' for name in targets]))

    def run():
        made = adapted(IMAGES)
        return (made, latents(adapted)) if is_attached else made
    before, z = run()
    (before.square().mean() + compression_loss(z)).backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(targets)
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if 'lora_B' in name)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    optimizer.step()
    assert not torch.allclose(run()[0], before)


def test_lora_on_the_body_with_a_trained_head(tmp_path):
    """peft keeps a copy of the head to train (`modules_to_save`), and saves it with the adapters."""
    model = peft.get_peft_model(attach(hf_vit()), peft.LoraConfig(
        r=2, target_modules=['query', 'value', 'q_proj', 'v_proj'], modules_to_save=['classifier']))
    logits = model(pixel_values=IMAGES).logits
    (logits.square().mean() + compression_loss(latents(model))).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any('penultimate' in name for name in trained)
    assert any('lora_B' in name for name in trained)
    model.save_pretrained(tmp_path)
    assert [name for name in load_file(tmp_path / 'adapter_model.safetensors') if 'classifier.penultimate' in name]
    with torch.no_grad(), keep_latents(model.eval()):
        model(pixel_values=IMAGES)
        assert latents(model).shape == (2, 4)


def test_saved_by_hugging_face(tmp_path):
    """`save_pretrained` writes the head's weights under its names; they load into a model that is attached first."""
    model, other = attach(hf_bert()).eval(), attach(hf_bert()).eval()
    model.save_pretrained(tmp_path)
    other.load_state_dict(load_file(tmp_path / 'model.safetensors'))
    torch.testing.assert_close(logits_of(other), logits_of(model))


def test_accelerate_without_memory():
    """`init_empty_weights` builds head and attached network on the meta device; weights are loaded afterwards."""
    with init_empty_weights():
        head, model = BinaryEncodingHead(64, 4, 10), attach(hf_resnet())
    assert all(p.is_meta for m in (head, model) for p in m.parameters())
    assert head(torch.empty(2, 64, device='meta'))[0].shape == (2, 10)
    full = BinaryEncodingHead(64, 4, 10)
    head.load_state_dict(full.state_dict(), assign=True)
    torch.testing.assert_close(head(IMAGES.flatten(1)[:, :64])[0], full(IMAGES.flatten(1)[:, :64])[0])


@pytest.mark.parametrize('is_attached', [False, True])
def test_onnx(is_attached, tmp_path):
    """onnxruntime gives the same numbers, for any number of images."""
    last = nn.Linear(16, 10) if is_attached else BinaryEncodingHead(16, 4, 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), last)
    model = (attach(model) if is_attached else model).eval()
    file = tmp_path / 'model.onnx'
    torch.onnx.export(model, (IMAGES,), file, dynamo=True, dynamic_shapes=({0: torch.export.Dim('n')},),
                      verbose=False)
    session = onnxruntime.InferenceSession(file)
    images = IMAGES.repeat(3, 1, 1, 1)[:5]
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = [model(images)] if is_attached else list(model(images))
    torch.testing.assert_close([*map(torch.tensor, found)], expected, rtol=1e-4, atol=1e-5)


CLIENT = """
import torch
from binenc import BinaryEncodingHead, GammaSchedule, attach, class_codes, compression_loss, latents

head = BinaryEncodingHead(64, nodes=4, num_classes=10, dtype=torch.float64)
network: torch.nn.Sequential = attach(torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.Linear(10, 10)))
z: torch.Tensor = latents(network)
loss: torch.Tensor = GammaSchedule(lr=1e-3, steps=100).gamma * compression_loss(z)
codes: int = class_codes(z, torch.arange(3)).distinct
attach(network, nodes='4')
GammaSchedule(lr=None, steps=1)
"""


def test_mypy_sees_the_signatures(tmp_path):
    """Of what can be imported from the top: right calls pass, and two wrong ones are found."""
    (tmp_path / 'binenc').symlink_to(REPO / 'binenc')
    (tmp_path / 'client.py').write_text(CLIENT, encoding='utf-8')
    done = subprocess.run([sys.executable, '-m', 'mypy', 'client.py'], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': str(tmp_path), 'MYPYPATH': ''})
    found = [line for line in done.stdout.splitlines() if ': error:' in line]
    assert [line.split(': error: ')[1] for line in found] == [
        'Argument "nodes" to "attach" has incompatible type "str"; expected "int"  [arg-type]',
        'Argument "lr" to "GammaSchedule" has incompatible type "None"; expected "float"  [arg-type]']


# Training: ten codes, at least 97% of a class on its code, and the accuracy of a plain head

STEPS, RATE, SIZE = 3000, 2e-3, 64


def digits():
    """(train images, labels, test images, labels): 8 x 8 pixels in one channel."""
    data = load_digits()
    x = torch.tensor(data.images / 16).float()[:, None]
    y = torch.tensor(data.target)
    test = torch.arange(len(y)) % 4 == 0
    return x[~test], y[~test], x[test], y[test]


TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = digits()


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(256, 64),
                         nn.SiLU(), nn.Linear(64, 10))


def small_vit():
    torch.manual_seed(0)
    return hf_vit(image_size=8, patch_size=4, num_channels=1, hidden_dropout_prob=0.)


def fit_plainly(model, schedule=None):
    """Anyone's own loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = torch.randint(len(TRAIN_Y), (SIZE,), generator=draw)
        loss = F.cross_entropy(logits_of(model, TRAIN_X[batch]), TRAIN_Y[batch])
        if schedule:
            loss = loss + schedule.gamma * compression_loss(latents(model))
            schedule.step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class Digits(pl.LightningModule):
    """Somebody's module, which knows nothing of latents."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, number):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=RATE)


def lightning_trainer(steps=STEPS, **options):
    return pl.Trainer(max_steps=steps, accelerator='cpu', logger=False, enable_progress_bar=False,
                      enable_model_summary=False, **{'enable_checkpointing': False} | options)


def loaders(size=SIZE):
    train = DataLoader(TensorDataset(TRAIN_X, TRAIN_Y), size, shuffle=True, drop_last=True)
    return train, DataLoader(TensorDataset(TRAIN_X, TRAIN_Y), 500)


def fit_with_lightning(model, schedule=None):
    callbacks = [lightning_callback(schedule)] if schedule else []
    trainer = lightning_trainer(callbacks=callbacks, num_sanity_val_steps=0, check_val_every_n_epoch=50)
    pl.seed_everything(0)
    trainer.fit(Digits(model), *loaders())
    if schedule:
        [measured] = trainer.validate(Digits(model), loaders()[1], verbose=False)
        assert measured['codes'] == 10
        assert measured['fraction'] >= 0.97
    return model


class CompressedTrainer(CompressedLoss, transformers.Trainer):
    """Hugging Face's trainer with the compression loss."""


class Rows(torch.utils.data.Dataset):
    """Images as Hugging Face's models want them."""

    def __len__(self):
        return len(TRAIN_Y)

    def __getitem__(self, row):
        return dict(pixel_values=TRAIN_X[row], labels=TRAIN_Y[row])


def hf_trainer(model, folder, schedule=None, steps=STEPS, **options):
    arguments = transformers.TrainingArguments(
        folder, max_steps=steps, learning_rate=RATE, lr_scheduler_type='constant', use_cpu=True, report_to=[],
        disable_tqdm=True, **dict(per_device_train_batch_size=SIZE, save_strategy='no') | options)
    if schedule is None:
        return transformers.Trainer(model, arguments, train_dataset=Rows())
    return CompressedTrainer(model, arguments, train_dataset=Rows(), schedule=schedule)


def fit_with_hugging_face(model, schedule=None, folder='unused'):
    hf_trainer(model, folder, schedule).train()
    return model


@torch.no_grad()
def accuracy(model):
    return float((logits_of(model.eval(), TEST_X).argmax(1) == TEST_Y).double().mean())


@pytest.mark.parametrize('fit, build', [(fit_plainly, convnet), (fit_with_lightning, convnet),
                                        (fit_with_hugging_face, small_vit)])
def test_each_loop_reaches_a_binary_code(fit, build, tmp_path, monkeypatch):
    """Ten codes, and the accuracy of the same network with its plain head, less two points."""
    monkeypatch.chdir(tmp_path)
    plain = accuracy(fit(build()))
    model = fit(attach(build(), nodes=4), GammaSchedule(lr=RATE, steps=STEPS, end=0.1))
    with torch.no_grad(), keep_latents(model.eval()):
        logits_of(model, TRAIN_X)
        z = latents(model)
    print(f'{fit.__name__}: plain {plain:.3f}, attached {accuracy(model):.3f}, '
          f'{class_codes(z, TRAIN_Y).distinct} codes, fraction {encoding_fraction(z, TRAIN_Y):.3f}')
    assert class_codes(z, TRAIN_Y).distinct == 10
    assert encoding_fraction(z, TRAIN_Y) >= 0.97
    assert accuracy(model) >= plain - 0.02


def test_accumulated_gradients_have_the_same_term(tmp_path):
    """Two batches of half the size make the same step as one, in both frameworks; gamma is that of the step."""
    schedule = GammaSchedule.by_hand(start=100., factor=2.)
    found = {}
    for batches in (1, 2):
        model = attach(small_vit(), nodes=4)
        size = SIZE // batches
        options = dict(per_device_train_batch_size=size, gradient_accumulation_steps=batches, optim='sgd', seed=0)
        hf_trainer(model, tmp_path, schedule, steps=3, **options).train()
        found[batches] = copy.deepcopy(model.state_dict())
        assert schedule.gamma == 400
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=1e-5)


class Slow(Digits):
    """With plain gradient descent, the same images in each epoch."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return DataLoader(TensorDataset(TRAIN_X, TRAIN_Y), self.size)


@pytest.mark.parametrize('batches', [2, 4])
def test_accumulation_in_lightning(batches):
    found = {}
    for split in (1, batches):
        module = Slow(attach(convnet(), nodes=4))
        module.size = SIZE // split
        schedule = GammaSchedule.by_hand(start=100., factor=2.)
        lightning_trainer(3, callbacks=[lightning_callback(schedule)], accumulate_grad_batches=split).fit(module)
        assert schedule.gamma == 400
        found[split] = module.state_dict()
    torch.testing.assert_close(found[1], found[batches], rtol=1e-3, atol=1e-5)


def test_resumed_runs_have_the_right_gamma(tmp_path):
    """From a checkpoint of Hugging Face's, and of Lightning's, with a schedule that was made anew."""
    saving = dict(save_strategy='steps', save_steps=2)
    hf_trainer(attach(small_vit()), tmp_path / 'hf', GammaSchedule.by_hand(1., 2.), steps=2, **saving).train()
    resumed = hf_trainer(attach(small_vit()), tmp_path / 'hf', GammaSchedule.by_hand(1., 2.), steps=4, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.schedule.gamma == 8

    train = loaders()[0]
    first = lightning_trainer(2, callbacks=[lightning_callback(GammaSchedule.by_hand(1., 2.))],
                              enable_checkpointing=True, default_root_dir=tmp_path)
    first.fit(Digits(attach(convnet())), train)
    first.save_checkpoint(tmp_path / 'two.ckpt')
    schedule = GammaSchedule.by_hand(1., 2.)
    lightning_trainer(4, callbacks=[lightning_callback(schedule)]).fit(
        Digits(attach(convnet())), train, ckpt_path=tmp_path / 'two.ckpt')
    assert schedule.gamma == 8


def test_the_page_with_snippets(monkeypatch, tmp_path, capsys):
    """nbs/in_your_framework.ipynb as it stands, cell by cell: each snippet ends in ten codes, as the page shows."""
    page = json.loads((REPO / 'nbs' / 'in_your_framework.ipynb').read_text(encoding='utf-8'))
    cells = [cell for cell in page['cells'] if cell['cell_type'] == 'code']
    monkeypatch.chdir(tmp_path)
    names = {'__name__': 'page'}
    for number, cell in enumerate(cells):
        exec(compile(''.join(cell['source']), f'code cell {number}', 'exec'), names)
    shown = ''.join(''.join(output.get('text', '')) for cell in cells for output in cell['outputs'])
    found, committed = (re.findall(r'(\d+) codes; same-encoding fraction ([\d.]+); test accuracy ([\d.]+)', text)
                        for text in (capsys.readouterr().out, shown))
    assert len(found) == 5
    for codes, fraction, accuracy in found + committed:
        assert int(codes) == 10 and float(fraction) >= 0.97 and float(accuracy) > 0.9

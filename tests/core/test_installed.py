"""The wheel beside the torch that is there: nothing is replaced, it is there in seconds, and README's loop works.

In the environment of the core's requirements, see test_chapters.py; the library is taken out of it again.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
README = (REPO / 'README.md').read_text(encoding='utf-8')
LOOP = re.search(r'^```python\n(.*?)^```$', README, re.M | re.S)[1]
SEEDS = """
import json
import sys
from binenc.binarity import encoding_fraction
from binenc.head import DirectHead

def trained(loop, seed):
    names = dict(DirectHead=DirectHead)
    exec(loop.replace('manual_seed(0)', f'manual_seed({seed})'), names)
    (logits, z), y = names['head'](names['body'](names['x'])), names['y']
    accuracy = float((logits.argmax(1) == y).double().mean())
    return names['codes'].distinct, float(names['codes'].share.mean()), encoding_fraction(z, y), accuracy

loop, plain = sys.argv[1:]
found = [trained(loop, seed) for seed in range(5)]
print(json.dumps([(*row, trained(plain, seed)[3]) for seed, row in enumerate(found)]))
"""


def plain():
    """README's loop with a linear head and no compression."""
    text, heads = re.subn(r'BinaryEncodingHead\(.*?\)', 'DirectHead(128, 10)', LOOP)
    text, terms = re.subn(r'schedule\.gamma \*', '0 *', text)
    assert heads == terms == 1
    return text


def pip(*words):
    """What pip printed."""
    return subprocess.run([sys.executable, '-m', 'pip', *map(str, words)], capture_output=True, text=True,
                          check=True).stdout


def processor_seconds():
    """That processes started here have taken, which a busy machine does not change; alone they take as long."""
    used = os.times()
    return used.children_user + used.children_system


def packages():
    """Name and version of everything that is installed, but for this library."""
    return {line for line in pip('freeze').splitlines() if not line.startswith('binenc')}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Made from what git tracks, in an environment of its own."""
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run(['git', 'clone', '-q', REPO, folder / 'clone'], check=True)
    pip('wheel', '--quiet', '--no-deps', '--wheel-dir', folder, folder / 'clone')
    [made] = folder.glob('*.whl')
    yield made
    pip('uninstall', '--quiet', '--yes', 'binenc')


def test_nothing_is_replaced(wheel):
    """With all that it requires, and then within ten seconds by itself."""
    before = packages()
    pip('install', '--quiet', wheel)
    assert packages() == before
    start = processor_seconds()
    pip('install', '--quiet', '--no-deps', '--force-reinstall', wheel)
    seconds = processor_seconds() - start
    print(f'pip install --no-deps: {seconds:.1f} s')
    assert packages() == before and seconds <= 10


def test_the_loop_of_the_front_page(wheel, tmp_path):
    """In a folder of its own, from the wheel: as README says; and with five seeds ten codes, at least 97% of a class's
    values on the same side of zero, and the accuracy of a plain head less two points."""
    pip('install', '--quiet', '--no-deps', '--force-reinstall', wheel)
    done = subprocess.run([sys.executable, '-I', '-c', SEEDS, LOOP, plain()], cwd=tmp_path, capture_output=True,
                          text=True, check=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    *said, measured = done.stdout.splitlines()
    print(*said, measured, sep='\n')
    codes, share, fraction, accuracy, of_plain = zip(*json.loads(measured), strict=True)
    assert said[0] == re.search('^    (.* of a class on its code)$', README, re.M)[1]
    assert set(codes) == {10} and max(share) == share[0] and min(fraction) >= 0.97
    assert all(a >= b - 0.02 for a, b in zip(accuracy, of_plain, strict=True))

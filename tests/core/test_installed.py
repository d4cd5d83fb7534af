"""The wheel beside the torch that is there: nothing is replaced, it is there in seconds, and README's loop works.

In the environment of the core's requirements, see test_chapters.py; the library is taken out of it again.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
LOOP = re.search(r'^```python\n(.*?)^```$', (REPO / 'README.md').read_text(encoding='utf-8'), re.M | re.S)[1]


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
    """In a folder of its own, from the wheel: ten codes, and nearly all of a class on its own."""
    pip('install', '--quiet', '--no-deps', '--force-reinstall', wheel)
    done = subprocess.run([sys.executable, '-I', '-c', LOOP], cwd=tmp_path, capture_output=True, text=True, check=True)
    codes, share = re.fullmatch(r'(\d+) codes; ([\d.]+)% of a class on its code\n', done.stdout).groups()
    assert int(codes) == 10 and float(share) >= 97

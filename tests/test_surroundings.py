"""Surroundings of other people: a sample of the table in `.ci/torture_surroundings.py`, which `make torture` tries in
full, and what needs no whole sweep."""

import errno
import os
import subprocess
import sys

import pytest

from binenc.data import best_device
from binenc.errors import UserError
from binenc.files import short_name, write_bytes
from helpers import REPO, environment

SAMPLE = ('the locale C',)


def test_sample():
    done = subprocess.run([sys.executable, REPO / '.ci' / 'torture_surroundings.py', *SAMPLE], capture_output=True,
                          text=True, env=environment(), timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'surroundings: {len(SAMPLE)} tried, 0 lost, 0 computed twice, 0 silently wrong' in done.stdout


@pytest.mark.parametrize('number, mend', [(errno.ENOSPC, 'make room'), (errno.EDQUOT, 'make room'),
                                          (errno.ENAMETOOLONG, 'choose shorter names'),
                                          (errno.EFBIG, r'raise the limit on the size of files \(ulimit -f\)'),
                                          (errno.EACCES, 'check its permissions'),
                                          (errno.EROFS, 'check its permissions')])
def test_what_helps_depends_on_what_is_wrong(number, mend, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr('binenc.files._write_durably', fails)
    with pytest.raises(UserError, match=rf'cannot write .*\({os.strerror(number)}\): {mend} or choose another folder'):
        write_bytes(tmp_path / 'a', b'')


@pytest.mark.parametrize('text', ['lr=1e-3', 'lr=' + ','.join(map(str, range(100, 900))), 'é' * 150, '\udce9' * 300])
def test_names_of_parts_fit_into_a_folder(text, tmp_path):
    """Two long ones stay apart; many experiments side by side have a folder too."""
    from binenc.figures import output_folder
    output_folder([text] * 9, tmp_path / 'results').mkdir(parents=True)
    (tmp_path / short_name(text)).mkdir()
    (tmp_path / short_name(text + '0')).mkdir()
    assert len(list(tmp_path.iterdir())) == 3 and (len(text) > 100 or short_name(text) == text)


def test_a_gpu_that_is_hidden_is_not_missed(monkeypatch):
    """Empty and -1 both mean that somebody wants the CPU."""
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setenv('SLURM_JOB_GPUS', '0')
    for hidden in '', '-1':
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
        assert best_device().type == 'cpu'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    with pytest.raises(UserError, match='this job was given GPU 0, but torch cannot use it'):
        best_device()


def test_a_python_that_is_too_old(tmp_path):
    """One sentence from make, before anything is installed."""
    old = tmp_path / 'python'
    fake = 'import sys; sys.version_info = (3, 10, 2); sys.version = "3.10.2 (old)"; code = sys.argv[1]; ' \
           'sys.argv[1:] = sys.argv[2:]; exec(code)'
    old.write_text(f"#!/bin/sh\nshift\nexec {sys.executable} -c '{fake}' \"$@\"\n", encoding='utf-8')
    old.chmod(0o755)
    venv = tmp_path / 'venv'
    done = subprocess.run(['make', '--silent', f'PYTHON={old}', f'VENV={venv}', venv / 'bin' / 'python'], cwd=REPO,
                          capture_output=True, text=True, check=False)
    first, *_ = done.stderr.splitlines()
    assert first == 'Python 3.11 or newer is needed, and this is 3.10.2: name one, as in make PYTHON=python3.11'
    assert done.returncode and not venv.exists()

"""The check of the chapters' outputs sees what differs, and only that."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import check_outputs


def notebook(*sources):
    """A notebook of code cells."""
    metadata = {'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}}
    return new_notebook(cells=[new_code_cell(source) for source in sources], metadata=metadata)


@pytest.fixture
def committed(tmp_path):
    """A notebook as it is committed: executed, in a folder."""
    path = tmp_path / 'notebook.ipynb'
    nbformat.write(notebook('print(1 + 1)', '#| varies\nimport time\ntime.time()', 'object()', '1\n2'), path)
    nbformat.write(check_outputs.executed(path), path)
    return path


def test_same_outputs(committed):
    """Only the marked cell and the address of an object differ, which do not count; nothing is written."""
    before = committed.read_bytes()
    assert check_outputs.check(committed) == []
    assert committed.read_bytes() == before and len(list(committed.parent.iterdir())) == 1


def test_another_output(committed):
    """The cell and the lines are named."""
    committed.write_text(committed.read_text('utf-8').replace('print(1 + 1)', 'print(1 + 2)'), encoding='utf-8')
    assert check_outputs.check(committed) == ['cell 1\n    --- committed\n    +++ now\n    @@ -1 +1 @@\n    -2\n    +3']


def test_failing_cell(committed):
    """An error is one finding, and names itself."""
    committed.write_text(committed.read_text(encoding='utf-8').replace('print(1 + 1)', '1 / 0'), encoding='utf-8')
    (found,) = check_outputs.check(committed)
    assert 'ZeroDivisionError' in found


def test_pictures_do_not_count():
    """Neither the bytes of a picture nor the size that is printed with it."""

    def cell(picture, size):
        data = {'image/png': picture, 'text/plain': f'<Figure {size}>'}
        return new_code_cell('x', outputs=[new_output('display_data', data)])

    before, now = (new_notebook(cells=[cell(*what)]) for what in (('a', 1), ('b', 2)))
    assert not list(check_outputs.differences(before, now))


def test_parts_do_not_count():
    """What a cell prints comes in one part or in several, as it happens."""

    def cell(*texts):
        return new_code_cell('x', outputs=[new_output('stream', name='stdout', text=text) for text in texts])

    before, now = new_notebook(cells=[cell('a\n', '\nb\n')]), new_notebook(cells=[cell('a\n\nb\n')])
    assert not list(check_outputs.differences(before, now))

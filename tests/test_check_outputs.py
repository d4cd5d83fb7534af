"""The check of the chapters' outputs sees what differs, and only that."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

import check_outputs


def test_what_differs(tmp_path):
    """Neither a marked cell nor the address of an object counts; another output and an error do, and are named."""
    path = tmp_path / 'notebook.ipynb'
    metadata = {'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}}
    cells = map(new_code_cell, ('print(1 + 1)', '#| varies\nimport time\ntime.time()', 'object()', '1\n2'))
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    nbformat.write(check_outputs.executed(path), path)
<<<<<<< HEAD
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
=======
    committed = path.read_text()
    assert check_outputs.check(path) == [] and path.read_text() == committed
    path.write_text(committed.replace('print(1 + 1)', 'print(1 + 2)'))
    assert check_outputs.check(path) == ['cell 1\n    --- committed\n    +++ now\n    @@ -1 +1 @@\n    -2\n    +3']
    path.write_text(committed.replace('print(1 + 1)', '1 / 0'))
    (failed,) = check_outputs.check(path)
    assert 'ZeroDivisionError' in failed
>>>>>>> ae16d2babca5d796a5c5af64e30d251e879fad85

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
    committed = path.read_text(encoding='utf-8')
    assert check_outputs.check(path) == [] and path.read_text(encoding='utf-8') == committed
    path.write_text(committed.replace('print(1 + 1)', 'print(1 + 2)'), encoding='utf-8')
    assert check_outputs.check(path) == ['cell 1\n    --- committed\n    +++ now\n    @@ -1 +1 @@\n    -2\n    +3']
    path.write_text(committed.replace('print(1 + 1)', '1 / 0'), encoding='utf-8')
    (failed,) = check_outputs.check(path)
    assert 'ZeroDivisionError' in failed

"""The linter of CI sees what it should, and only that."""


import pytest

import lint


@pytest.mark.parametrize(
    'code',
    [
        'if a: b = 1',
        'for x in y: print(x)',
        'def f(): yield 1',
        'try: f()\nexcept E: raise',
        'if a:\n    b\nelse: c = 1',
        'with é: f()',
        'class A: x = 1',
        'class A: pass',
        'for x in y:\n    if x: continue',
    ],
)
def test_body_on_the_line(code):
    """A body beside its colon is reported, once."""
    assert len(list(lint.bodies_on_the_line(code))) == 1


@pytest.mark.parametrize(
    'code',
    [
        'def f(): return {1: 2}',
        'if a: raise E',
        'class A:\n    x = 1',
        'x: int = 1',
        'if a:\n    b = 1  # c: d',
        'f = {1: lambda: 2}',
    ],
)
def test_allowed_on_the_line(code):
    """Return and raise may follow a colon; other colons do not matter."""
    assert not list(lint.bodies_on_the_line(code))


def test_long_lines():
    """Rows of tables and single words are as long as they are."""
    text = '\n'.join(['word ' * 24, 'word ' * 24 + 'x', '| cell ' * 30, 'https://example.org/' + 'x' * 120])
    assert [line for line, _ in lint.long_lines(text)] == [2]


def notebook(*cells, language='python'):
    """A notebook of (kind, source, tags)."""
    cells = [{'cell_type': kind, 'source': [text], 'metadata': {'tags': tags}} for kind, text, *tags in cells]
    return {'metadata': {'kernelspec': {'name': 'python3', 'language': language}}, 'cells': cells}


def test_metadata():
    """A language, and one cell of parameters where papermill runs the notebook, else none."""
    raw, plain, filled = ('raw', '---\nskip_exec: true\n---'), ('code', 'x = 1'), ('code', 'x = 1', 'parameters')
    good = notebook(plain), notebook(raw, filled, plain)
    bad = notebook(filled), notebook(raw, plain), notebook(raw, filled, filled), notebook(plain, language='')
    assert [len(list(lint.metadata_problems(each))) for each in (*good, *bad)] == [0, 0, 1, 1, 1, 1]


def test_code_cell():
    """IPython's commands are read; a cell longer than a screen is reported."""
    assert not list(lint.code_problems('%matplotlib inline\n!ls\nx = 1'))
    assert len(list(lint.code_problems('x = 1\n' * 61))) == 1


def test_order():
    """An import of a later chapter is reported, also within a function or for a type checker."""
    order = {'errors': '1_layer/01_errors.ipynb', 'head': '1_layer/02_head.ipynb', 'store': '4_training/03_store.ipynb'}
    bad = 'from .store import place\ndef f():\n    from binenc import store\n'
    assert not list(lint.order_problems('head', 'from .errors import E\n', order))
    assert [line for line, _ in lint.order_problems('head', bad, order)] == [1, 3]
    assert len(lint.chapters()) > 30


def test_long_functions():
    """A function fits on one screen."""
    assert [line for line, _ in lint.long_functions('def f():\n' + '    x = 1\n' * 50)] == [1]
    assert not list(lint.long_functions('def f():\n    x = 1\n'))

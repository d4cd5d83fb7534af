"""Lets pytest try first what names the changed function, and write down what it does: see mutants.py."""

import inspect
import os
import re

import pytest


def write(word, test):
    with open(os.environ['BINENC_MUTANT_LOG'], 'a', encoding='utf-8') as log:
        log.write(f'{word} {test}\n')


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Tests that name the function come first, the tests from end to end last; conftest.py begins with the slow ones,
    here they end."""
    word = re.compile(os.environ['BINENC_MUTANT_WORD'])
    items.reverse()
    items.sort(key=lambda item: (not word.search(inspect.getsource(item.function)), 'end_to_end' in item.nodeid))


def pytest_runtest_logstart(nodeid):
    write('began', nodeid)


def pytest_runtest_logreport(report):
    if report.failed:
        write('failed', report.nodeid)


def pytest_collectreport(report):
    if report.failed:
        write('failed', report.nodeid)

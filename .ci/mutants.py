"""Which small changes of the library do the tests notice? python .ci/mutants.py [--only N] [--jobs N] [--at COMMIT].

The changes stand in mutants.json. They were drawn once, at commit d1c492e, before any test was cut, and are kept: each
is put into a copy of the repository, into chapter and module alike, which is tested until something fails: the chapter
that defines the function, the test that noticed the change before, then the test files that name the function or import
its module, and for operations the tests from end to end, within a limit of CPU time. What fails has to fail a second
time, alone, and to pass in a copy without the change. SLURM's tests are left out. What is found is stored after each
change: the same command continues. Where code was rewritten, `now` says where the same change belongs today; a change
whose code is gone is not replaced. Writes mutants.md; exits with 1 if an earlier commit noticed what this one does not.
"""

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import fields
from multiprocessing.pool import ThreadPool
from pathlib import Path

import psutil

from mutants_code import Change, put_in

REPO = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix('.json')
GROUPS = 'science', 'operations'
CPU = 150       # seconds for the tests of one change, their processes together
WALL = 6        # times as long by the clock: the machine may have other work
END_TO_END = 'test_end_to_end.py'
LEFT_OUT = 'test_slurm.py',
SURVIVED, GONE = 'survived', 'gone'
closing = threading.Event() # set when this process was asked to end


def changes_of(entry):
    """The change as today's code has it, and as it was drawn."""
    for each in (entry | entry['now'], entry) if 'now' in entry else (entry,):
        yield Change(**{field.name: each[field.name] for field in fields(Change)})


# Copies of the repository

def put_into(copy, change, module):
    """Put a change into a module, rather that one, and its chapter; returns both, or None if the code is gone."""
    for path in sorted(copy.glob('binenc/[!_]*.py'), key=lambda path: path.stem != module):
        if code := put_in(change, path.read_text(encoding='utf-8')):
            path.write_text(code, encoding='utf-8')
            return path, put_into_chapter(copy, change, path.stem)
    return None


def put_into_chapter(copy, change, module):
    """Put a change into the exported cell that has the function; returns the chapter."""
    for path in sorted(copy.glob('nbs/**/*.ipynb')):
        text = path.read_text(encoding='utf-8')
        notebook, exports = json.loads(text), re.search(r'#\| default_exp (\w+)', text)
        for cell in notebook['cells'] if exports and exports[1] == module else []:
            code = ''.join(cell['source'])
            if cell['cell_type'] == 'code' and code.startswith('#| export') and (new := put_in(change, code)):
                cell['source'] = new.splitlines(keepends=True)
                path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
                return path
    raise LookupError(f'{change} is in the module {module}, and not in its chapter: run nbdev_export')


def git(folder, *words):
    subprocess.run(['git', '-C', folder, *words], check=True, capture_output=True)


# Tests of a copy

def execute(words, copy, log, word='', cpu=CPU):
    """Run a command in a copy, with its own temporary folder; 'passed', 'failed' or 'hung'."""
    if closing.is_set(): return 'hung'
    scratch = tempfile.mkdtemp(prefix='m', dir='/tmp') # short: sockets are put below it
    environment = {**os.environ, 'PYTHONPATH': f'{copy}:{Path(__file__).parent}', 'OMP_NUM_THREADS': '1',
                   'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'TMPDIR': scratch,
                   'BINENC_MUTANT_LOG': str(log), 'BINENC_MUTANT_WORD': word}
    process = psutil.Popen(words, cwd=copy, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
                           stdout=log.with_suffix('.out').open('w', encoding='utf-8'), stderr=subprocess.STDOUT)
    seen, end = {process}, time.monotonic() + WALL * cpu
    try:
        while process.poll() is None:
            seen.update(process.children(recursive=True))
            if closing.is_set() or time.monotonic() > end or cpu_seconds(seen) > cpu:
                return 'hung'
            time.sleep(0.3)
        return 'failed' if process.returncode else 'passed'
    except psutil.NoSuchProcess:
        return 'failed' if process.wait() else 'passed'
    finally:
        stop(seen)
        shutil.rmtree(scratch, ignore_errors=True)


def cpu_seconds(processes):
    """Of all that still live, and of their children that have ended."""
    total = 0
    for process in processes:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            pass
    return total


def stop(processes):
    """End processes that were started here, by themselves: a process that has another's number is none of them."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            pass


class Bench:
    """A copy to change and one to compare with; knows which tests pass without a change."""

    def __init__(self, folder, commit):
        self.copy, self.clean, self.log, self.known = folder / 'copy', folder / 'clean', folder / 'log', {}
        for path in self.copy, self.clean:
            subprocess.run(['git', 'clone', '-q', '--shared', REPO, path], check=True)
            git(path, 'checkout', '-q', '--detach', commit)

    def try_out(self, entry, before):
        """What noticed the change, or that nothing did, or that it cannot be made any more; first what did before."""
        git(self.copy, 'checkout', '-q', '.')
        git(self.copy, 'clean', '-fdq')
        put_in_here = ((change, put_into(self.copy, change, entry['module'])) for change in changes_of(entry))
        change, written = next((pair for pair in put_in_here if pair[1]), (None, None))
        if not written:
            return GONE
        module, chapter = written
        words = ['nbdev_test', '--n_workers', '0', '--path', str(chapter.relative_to(self.copy))]
        if self.noticed(words, execute(words, self.copy, self.log)):
            return f'chapter {chapter.stem}'
        first = [file for outcome in before if (file := outcome.partition('::')[0]) and (self.copy / file).is_file()]
        for files in first[:1], self.files(module.stem, change.function.split('.')[0], entry['group']):
            outcome = self.tests(change.function.split('.')[0], files)
            if caught(outcome):
                break
        return outcome

    def noticed(self, words, ended):
        """Whether a command that ended so with a change passes without; well within the limit, if it seemed to hang."""
        if ended != 'passed' and (key := (*words, ended)) not in self.known:
            self.known[key] = execute(words, self.clean, self.log, cpu=CPU / 5 if ended == 'hung' else CPU) == 'passed'
        return ended != 'passed' and self.known[key]

    def tests(self, name, files):
        """The test that noticed the change, or that none did."""
        left_out = []
        while files:
            self.log.unlink(missing_ok=True)
            deselected = [f'--deselect={test}' for test in left_out]
            ended = execute(pytest(*files, *deselected), self.copy, self.log, rf'\b{name}\b')
            if ended == 'passed':
                break
            test = self.last('began ' if ended == 'hung' else 'failed ')
            words = pytest(test) if test else pytest('--collect-only', *files)
            if self.noticed(words, execute(words, self.copy, self.log)):
                return test or 'the tests cannot be imported'
            if ended == 'hung' or test in left_out:
                return f'{SURVIVED} (tests: at the limit)'
            left_out.append(test)
        return SURVIVED

    def last(self, word):
        """The last test of which the plugin wrote that word, or ''."""
        lines = self.log.read_text(encoding='utf-8').splitlines() if self.log.exists() else []
        return ([line.removeprefix(word) for line in lines if line.startswith(word)] or [''])[-1]

    def files(self, module, name, group):
        """The test files that name the function or import its module."""
        word = re.compile(rf'\bbinenc\.{module}\b|from binenc import .*\b{module}\b|\b{name}\b')
        found = [path for path in sorted(self.copy.glob('tests/test_*.py')) if path.name not in LEFT_OUT and (
            word.search(path.read_text(encoding='utf-8')) or group == 'operations' and path.name == END_TO_END)]
        return [str(path.relative_to(self.copy)) for path in found]


def pytest(*words):
    """The command: one process, up to the first failure."""
    return [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'mutants_plugin', '-p', 'no:cacheprovider', *words]


# Everything

def short(entry, margin=24):
    """A change with a little of what stands around it, as a cell of a table."""
    before, after = entry['before'], entry['after']
    start = len(os.path.commonprefix([before, after]))
    end = len(os.path.commonprefix([before[start:][::-1], after[start:][::-1]]))
    texts = [f"{text[max(0, start - margin):start]}{text[start:len(text) - end]}{text[len(text) - end:][:margin]}"
             for text in (before, after)] if after != 'pass' else [before[:3 * margin], after]
    return ' → '.join(f"`{' '.join(text.split())}`" for text in texts).replace('|', '\\|')


def table(stored):
    """The changes and what noticed them at each commit, in Markdown."""
    commits = list(stored['outcomes'])
    lines = [f"| | module: function | change | {' | '.join(commits)} |", '|---' * (3 + len(commits)) + '|']
    for number, entry in enumerate(stored['mutants'], 1):
        outcomes = [stored['outcomes'][commit].get(str(number), '') for commit in commits]
        cells = [outcome.removeprefix('tests/').replace('|', '\\|') for outcome in outcomes]
        lines.append(f"| {number} | {entry['module']}: {entry['function']} | {short(entry)} | {' | '.join(cells)} |")
    return '\n'.join(lines)


def score(stored, commit):
    """One line: how many changes were noticed."""
    parts, outcomes = [], stored['outcomes'][commit]
    for group in GROUPS:
        ended = [outcomes[str(number)] for number, entry in enumerate(stored['mutants'], 1)
                 if entry['group'] == group and str(number) in outcomes]
        parts.append(f'{sum(map(caught, ended))} of {len(ended) - ended.count(GONE)} in {group}')
    gone = list(outcomes.values()).count(GONE)
    return f"{commit}: caught {' and '.join(parts)}{f'; {gone} gone' if gone else ''}"


def lost(stored, commit):
    """The numbers of changes that an earlier commit noticed and this one does not."""
    now = stored['outcomes'][commit]
    return sorted({int(number) for outcomes in stored['outcomes'].values() for number, outcome in outcomes.items()
                   if caught(outcome) and now.get(number, '').startswith(SURVIVED)})


def caught(outcome):
    """Whether a change was noticed."""
    return not outcome.startswith((SURVIVED, GONE))


def store(stored):
    """Write the list and the table."""
    LIST.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    scores = '\n\n'.join(score(stored, commit) for commit in stored['outcomes'])
    head = '# Changes of the library, and what notices them\n\nBy `python .ci/mutants.py`.'
    LIST.with_suffix('.md').write_text(f'{head}\n\n{scores}\n\n{table(stored)}\n', encoding='utf-8')


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', type=int, nargs='+', metavar='N', help='try these again')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='changes side by side')
    parser.add_argument('--at', default='HEAD', metavar='COMMIT', help='whose library and tests are tried')
    return parser.parse_args()


def try_all(stored, commit, chosen, folder):
    """Try what has no outcome yet, or what was asked for; stores each outcome."""
    outcomes, benches = stored['outcomes'].setdefault(commit, {}), queue.Queue()
    numbers = chosen.only or [n for n in range(1, len(stored['mutants']) + 1) if str(n) not in outcomes]
    for job in range(chosen.jobs):
        benches.put(Bench(folder / str(job), commit))

    def one(number):
        bench = benches.get()
        before = [each.get(str(number), '') for each in stored['outcomes'].values()]
        outcome = '' if closing.is_set() else bench.try_out(stored['mutants'][number - 1], before)
        benches.put(bench)
        return number, outcome

    pool = ThreadPool(chosen.jobs)
    try:
        for number, outcome in pool.imap_unordered(one, numbers):
            outcomes[str(number)] = outcome
            print(f'{number}: {outcome}', flush=True)
            store(stored)
    finally:
        closing.set()
        pool.close()
        pool.join()


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler) # ends what was started, as Ctrl-C does
    chosen = options()
    stored = json.loads(LIST.read_text(encoding='utf-8'))
    commit = subprocess.check_output(['git', '-C', REPO, 'rev-parse', '--short=7', chosen.at], text=True).strip()
    with tempfile.TemporaryDirectory(prefix='mutants', ignore_cleanup_errors=True) as folder:
        try_all(stored, commit, chosen, Path(folder))
    print(score(stored, commit))
    if missed := lost(stored, commit):
        print(f'noticed before, and not any more: {", ".join(map(str, missed))}')
    return bool(missed)


if __name__ == '__main__':
    sys.exit(main())

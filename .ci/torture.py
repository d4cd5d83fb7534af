"""Kills, damages, bad inputs, owners and odd surroundings by the hundred: python .ci/torture.py [--kills N]
[--damages N] [--inputs N] [--images N] [--owners N] [--surroundings N] [--device N].

Prints every finding and a line for each part; exits with 1 if there is a finding. With --planted, eight bugs are put
in on purpose, one at a time, and each must be found.
"""

import argparse
import sys
from pathlib import Path

import torture_tools as tools

PARTS = {'kills': 1000, 'damages': 400, 'inputs': 400, 'images': 345, 'owners': 48, 'surroundings': 35, 'device': 16}


def make(part, folder, **options):
    """The trials of a part."""
    if part == 'kills':
        from torture_kills import Kills
        return Kills(folder)
    if part == 'surroundings':
        from torture_surroundings import Surroundings
        return Surroundings(folder, **options)
    if part == 'owners':
        from torture_owners import Owners
        return Owners(folder, **options)
    if part == 'damages':
        from torture_damages import Damages
        return Damages(folder)
    if part == 'device':
        from torture_device import Device
        return Device(folder)
    if part == 'images':
        from torture_images import Images
        return Images(folder)
    from torture_inputs import Inputs
    return Inputs(folder)


def torture(part, count, first=0, enough=None, **options):
    """Try `count` trials from the first; returns the tally. Ends early with `enough` findings."""
    folder, tally = tools.new_folder(), tools.Tally()
    try:
        trials = make(part, folder, **options)
        for number in range(first, first + count):
            tally.add(number, *trials.trial(number, tally))
            if (number - first) % 50 == 49:
                print(tally.line(f'{part} so far'), flush=True)
            if enough and sum(tally.found.values()) >= enough:
                break
    finally:
        tools.remove(folder)
    return tally


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part, count in PARTS.items():
        parser.add_argument(f'--{part}', type=int, default=count, metavar='N', help=f'by default {count}')
    parser.add_argument('--first', type=int, default=0, metavar='N', help='the number of the first trial: its seed')
    parser.add_argument('--planted', action='store_true', help='put bugs in and see whether they are found')
    return parser.parse_args()


def named(part):
    """The trials of a part that the command line names, each once."""
    sys.path.insert(0, str(Path(__file__).parents[1])) # the library of this repository
    tools.prepare()
    tally = torture(part, len(sys.argv) - 1, names=sys.argv[1:])
    print(tally.line(part))
    return int(any(tally.found.values()))


def main():
    chosen = options()
    tools.prepare()
    if chosen.planted:
        from torture_bugs import all_found
        return 0 if all_found(torture) else 1
    counts = {part: getattr(chosen, part) for part in PARTS}
    tallies = {part: torture(part, count, chosen.first) for part, count in counts.items() if count}
    for part, tally in tallies.items():
        print(tally.line(part))
    return int(any(tally.found for tally in tallies.values()))


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1])) # the library of this repository
    sys.exit(main())

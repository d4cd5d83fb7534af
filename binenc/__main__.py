"""The command `binenc`, also as `python -m binenc`."""
import os
import sys


def main() -> None:
    """The command. Ctrl-C while its modules are still being imported ends it as quietly as later.

    Where the laboratory is not installed, one sentence says so.
    """
    for name in 'stdin', 'stdout', 'stderr':  # where one is closed, the next file would get its number, and the prints
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'r+', encoding='utf-8'))
    sys.stdout.reconfigure(errors='replace')  # a locale may lack characters of a table
    try:
        from binenc.commands import main as command
        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition('.')[0] == 'binenc':
            raise
        sys.exit(f'binenc: {error.name} is not installed, and the command needs the laboratory: '
                 'pip install "binenc[lab]"')


if __name__ == '__main__':
    main()

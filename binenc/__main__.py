"""The command `binenc`, also as `python -m binenc`."""
import sys


def main() -> None:
    """The command. Ctrl-C while its modules are still being imported ends it as quietly as later.

    Where the laboratory is not installed, one sentence says so.
    """
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

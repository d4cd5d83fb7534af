"""The command `binenc`, also as `python -m binenc`."""
import sys


def main() -> None:
    "The command. Ctrl-C while its modules are still being imported ends it as quietly as later."
    try:
        from binenc.commands import main as command
        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()

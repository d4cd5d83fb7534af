"""`python -m binenc` is the command `binenc`."""
from binenc.cli import main

main()

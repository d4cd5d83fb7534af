"""Hugging Face looks for its package `datasets`: the folder of this name in the repository is not it."""

import sys

sys.modules['datasets'] = None

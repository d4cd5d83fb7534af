"""The process that kernels are copied from: it imports what notebooks need and outlives signals meant for its owner.

Only the fork server of `binenc.kernels` imports this module.
"""
import os
import signal

# the command that owns it decides when to end; Ctrl-C in a terminal reaches it too
for number in signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP:
    signal.signal(number, signal.SIG_IGN)
os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'

import ipykernel.kernelapp # noqa: E402, F401
import matplotlib.pyplot # noqa: E402, F401

import binenc.figures # noqa: E402, F401
import binenc.summaries # noqa: E402, F401

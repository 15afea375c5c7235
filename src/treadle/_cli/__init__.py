"""The command line. It lies above the library: nothing but `python -m treadle` imports it."""

INTERRUPTED = 130  # the status after Ctrl-C, where nothing was begun: 128 and the number of SIGINT, as shells have it

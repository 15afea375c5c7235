"""The command line. It lies above the library: nothing but `python -m treadle` imports it."""

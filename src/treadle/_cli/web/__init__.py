"""`treadle wsgi`: the command that serves web apps."""

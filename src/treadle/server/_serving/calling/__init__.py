"""How the handler of one message is called, and what becomes of what it returns."""

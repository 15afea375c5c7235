"""One client's bytes: its connection, what is read and sent, until when, and what observers are told of it."""

"""What observers are told of a connection and its messages."""

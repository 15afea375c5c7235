"""What turns bytes into calls."""

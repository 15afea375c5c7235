"""What the user holds: a pool, and the views of it."""

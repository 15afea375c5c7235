"""Where tasks meet threads: admission, the queue, and the workers."""

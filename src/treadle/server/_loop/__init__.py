"""The event loop of a server: it waits for descriptors and for times, and knows no connection."""

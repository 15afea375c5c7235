"""map: the results of a function over items that are read as they are needed."""

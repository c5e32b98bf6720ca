"""Several nodes as one: the bus between them, the store they share, the directory of who is alive."""

"""healctl's own house: the process tree, the bus, the incident engine, the store, the notifier, the command line."""

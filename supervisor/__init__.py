"""healctl's own house: the process tree, the bus, the incident engine, the store, the notifier, the command line.

supervisord ships a package of this name too; `healctl` refuses to start when `__version__` shows another house.
"""

__version__ = "0.1.0"

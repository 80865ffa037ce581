"""The command line: one file for each group of commands. It reaches the daemon only through messages and sockets."""

"""The tree of processes: who is started, in which order, watched how, restarted when, stopped how (DESIGN §1).

`model` and `kernel` are pure; `root` is the only loop of the root process. Nothing in here knows what a worker does.
"""

"""The engine in a process of its own, so that its GIL isn't ours.

The files:

    process     the handle in this process: calls go in, futures come out
    serving     the other side: runs the calls
    channel     how a call and its answer cross between the two
"""

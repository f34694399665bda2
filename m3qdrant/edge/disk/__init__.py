"""A collection on the disk: everything about its files that isn't the engine's own.

The files:

    directory       where a collection lies; how one is made, removed and replaced whole
    configuration   the file with its configuration, which lies beside its data
    aliases         other names for collections
    lock            one process, and one client in it, at a time
    closed          what its files were like when it was closed, to see damage at the next opening
    leftovers       what a crash leaves behind, and how it is swept away
    space           room on the disk, which the engine needs before it writes
    holes           files that are mostly holes: their parts that hold data, and copies of them
    snapshots       a collection as one file, and back
    copies          a collection's files copied aside, to look at it without a touch
"""

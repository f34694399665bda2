"""From a source to points: any iterable, in bounded memory, a chunk at a time.

The files:

    sources    documents from files, folders and streams
    formats    what each kind of file holds, by line
    cutting    long texts cut as the model measures them
    splitting  long documents as documents of a passage each
    exports    the JSONL that documents are written to
    chunks     documents, checked, in chunks of unique ids
    behind     how many chunks may wait to be written
    plan       which of a chunk are new, which changed, which are as they were
    write      embeddings checked, fitted to what Qdrant takes, made into points, and sent
    prune      what the input no longer has
    report     what was done
    job        one call of `add`: these, in their order
    heap       memory that was freed, given back to the system
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

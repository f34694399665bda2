"""What each storage choice costs and gains: ``python -m benchmarks store``.

Read the folder in this order:

    texts.py      documents and queries from docstrings, encoded once, as wide as BGE-M3's vectors
    choices.py    the storage choices, one change at a time, and how exact each has to be
    oracle.py     the exact scores of every query and document, and each mode's exact ranking
    forms.py      `weighted` in two round trips instead of one, to compare with
    serving.py    a process that builds or serves one choice, measured from inside
    agreement.py  found against exact: errors, recall, whether there may be a speed at all
    server.py     documents to a server and back, beside qdrant-client (QDRANT_URL)
    peers.py      the embedded store beside other stores (--peers)
    suite.py      which process does what when, and the JSON document
    choice_tables.py, cost_plots.py
"""

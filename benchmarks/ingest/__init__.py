"""A long ingest, interrupted and killed, comes out complete: ``python -m benchmarks ingest``.

documents.py   any number of short, distinct documents
child.py       a process that ingests them all, and says how far it is
proof.py       starts it, stops it by SIGINT and by SIGKILL, and looks at what there is
run_lines.py   what the terminal shows; memory_plot.py: memory over time
"""

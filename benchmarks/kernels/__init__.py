"""What the kernels take, beside the peers and the floor: ``python -m benchmarks kernels``.

Read the folder in this order:

    bench.py        what an op brings: cases, inputs, contenders
    ops/            a module or package for each op of `m3kernels.ops`, with its peers
    draws.py        random numbers that inputs are made of
    expected.py     what the float64 result is for: the comparison with it, and the least work
    cases.py        the cases of all ops
    ours.py         the ways to call ours that are timed
    ceilings.py     copy bandwidth and matmul rates, measured in the same run
    measuring.py    the process that measures
    runner.py       starts it, again where a peer took it down; the JSON document
    case_tables.py, floor_plots.py
"""

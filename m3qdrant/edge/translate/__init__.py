"""qdrant-client's models to the engine's types and back, and what is checked on the way. Pure.

What the engine can't express raises `UnsupportedError` with what to use instead; what no engine
could take raises `InputError`. Models are told apart by their class's name where the newer ones
don't exist in every version of qdrant-client that this package runs with.

    vector_specs    what a collection expects of its vectors
    ids, check_vectors, check_points
                    what is checked before the engine sees it
    configuration, members
                    a collection's configuration, and the engine's enums
    validation      the ranges of its settings; changes: what an update makes of it
    points          points and vectors
    filters         filters and conditions; filter_models: what is done to a filter before that
    queries, formulas, selectors
                    requests, the formulas in them, and what shall come back
    payload_indexes indexes over payload fields
    answers         the way back: the engine's answers as qdrant-client's models
"""

"""Late interaction after a search: candidates scored by whoever can, and a whole corpus resident.

draws        documents and queries with the shape of BGE-M3's, and a collection of them
exact        the right answers, and who agrees with them
scorers      who scores given candidates: the engine, ours, the peers
corpus       a resident corpus at growing sizes, beside the engine's own MaxSim over all of it
suite        both, checked before they are timed; the table and the JSON file
"""

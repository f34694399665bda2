"""Calls that carry many vectors over gRPC, without a Python float for each number.

protobuf keeps packed floats as little-endian bytes, which is what numpy's float32 arrays hold. So
a vector goes into its message, and comes out of it, by a copy of its bytes. The generated classes
take and give lists, which costs 8 ms of CPU a document of 128 x 1024, either way. Ids, payloads,
filters and lexical weights are small, and the generated classes' own.

The files:

    format    protobuf's wire format, as far as it is needed here
    writing   the requests' bytes
    reading   the answers' bytes
    client    qdrant-client's clients with these calls beside their own
"""

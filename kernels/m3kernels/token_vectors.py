"""What MaxSim's ops ask of packed token vectors, and the dtype they are multiplied in."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import FLOAT_DTYPES, check_tensor

__all__ = ["QUANTIZED_DTYPES", "check_token_vectors", "product_dtype"]

QUANTIZED_DTYPES = (torch.int8, torch.float8_e4m3fn)


def check_token_vectors(
    queries: object, documents: object, document_scales: object
) -> Tensor | None:
    """Return the scales in float32, or None, if queries, documents and scales go together.

    Raises:
        TypeError: one is no tensor or has another dtype.
        ValueError: one has another shape or device, or scales are missing or too many.
    """
    queries = check_tensor("queries", queries, ndim=2, dtypes=FLOAT_DTYPES)
    device = queries.device
    documents = check_tensor(
        "documents", documents, ndim=2, dtypes=(*FLOAT_DTYPES, *QUANTIZED_DTYPES), device=device
    )
    if documents.shape[1] != queries.shape[1]:
        raise ValueError(
            f"documents has vectors of {documents.shape[1]}; expected {queries.shape[1]}, "
            "as queries has"
        )
    quantized = documents.dtype in QUANTIZED_DTYPES
    if document_scales is None:
        if quantized:
            raise ValueError(
                "document_scales is None; "
                f"expected (sum_d,) scales for {documents.dtype} documents"
            )
        return None
    if not quantized:
        raise ValueError(
            f"document_scales is given with {documents.dtype} documents; expected None, "
            "scales go with int8 and float8_e4m3fn documents"
        )
    scales = check_tensor(
        "document_scales", document_scales, ndim=1, dtypes=FLOAT_DTYPES, device=device
    )
    if scales.shape[0] != documents.shape[0]:
        raise ValueError(
            f"document_scales has {scales.shape[0]} entries; "
            f"expected {documents.shape[0]}, one a row of documents"
        )
    return scales.to(torch.float32)


def product_dtype(queries: torch.dtype, documents: torch.dtype) -> torch.dtype:
    """Return the dtype that both sides are widened to, without loss, for the product.

    int8 and float8_e4m3fn fit float16 and bfloat16 exactly, so such documents take the queries'.
    """
    if queries == documents or documents in QUANTIZED_DTYPES:
        return queries
    return torch.float32

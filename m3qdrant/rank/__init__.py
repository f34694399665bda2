"""Scores after the search, and why they are what they are. Nothing of Qdrant.

The files:

    arena         documents' three views in the rows of one tensor, on a device
    held          documents held by keys in an arena, the least recently used leave first
    pairs         the scores of (query, document) pairs in one launch
    work          one piece of scoring: what is held, what has to come, in rounds where it must
    reranker      M3Reranker: texts, embeddings and a search's candidates, ranked
    parts         what an explanation is made of, as plain data
    places        where a text may be cut without parting a character
    html_page     explanations as HTML
    explanation   Explanation: a document's, with the passage that matched
    explaining    from the vectors of a query and a document to the parts of their scores
    token_page    token vectors of some documents as arrays: how they come in
    packed        documents packed on a device, and what exact scores are of
    resident      a whole corpus in parts, searched exactly
    cascade       a first look at less than the whole, and the recall that it keeps
    rows_file     the vectors in a folder: mapped, filled page by page, checked
    room          what a corpus takes, and what is there
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Explanations as HTML: one page that needs nothing else, and parts of it for a notebook.

No script, no font and no picture from elsewhere; the page's own policy lets none run. All that
comes from a document or a query is escaped, and set apart from the direction of what is around it.
What colour shows is there as numbers too.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from m3qdrant.names import COLBERT, DENSE, SPARSE
from m3qdrant.rank.parts import Alignment, Component, Highlight, Parts, Token

__all__ = ["article", "escaped", "page", "shaded", "styled"]

_MATCHES = 100
_TERMS = 100
_MERGED = 100
"""Rows of a table; what is left out is counted below it."""
_TEXT = 20_000
"""Characters of a text that are shown; of a longer one the passages around what matched."""
_AROUND = 200

_NAMES = {DENSE: "dense", SPARSE: "lexical", COLBERT: "ColBERT"}


def page(explanations: Sequence[Parts], title: str) -> str:
    """A whole HTML document, in UTF-8, of some explanations.

    Args:
        explanations: best first.
        title: what was asked.
    """
    several = len(explanations) > 1
    links = "".join(
        f'<li><a href="#hit-{i}">{_text(e.id)}</a> <span class="n">{e.score:.4f}</span></li>'
        for i, e in enumerate(explanations, 1)
    )
    contents = f'<nav aria-label="Documents"><ol>{links}</ol></nav>' if several else ""
    articles = "".join(
        article(e, level=2, anchor=f"hit-{i}") for i, e in enumerate(explanations, 1)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'\">\n"
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>Why: {escaped(title)}</title>\n<style>{_STYLE}{_PAGE_STYLE}</style>\n</head>\n"
        f'<body class="m3q">\n<header><h1>{_text(title)}</h1></header>\n{contents}\n'
        f"<main>\n{articles}\n</main>\n</body>\n</html>\n"
    )


def styled(fragment: str) -> str:
    """A fragment with its style, for a notebook's output."""
    return f'<div class="m3q"><style>{_STYLE}</style>{fragment}</div>'


def article(e: Parts, *, level: int, anchor: str | None = None) -> str:
    """One explanation, its headings from `level` on."""
    place = "" if e.rank is None else f'<span class="rank">{e.rank}.</span> '
    below = f"h{level + 1}"
    own = "" if anchor is None else f' id="{escaped(anchor)}"'
    sections = [
        ("scores", "Scores", _components(e)),
        ("document", "Text", _document(e)),
        ("terms", "Shared terms", _terms(e)),
        ("matches", "Best matches by token", _matches(e)),
        ("alignment", "Alignment", _alignment(e)),
        ("merged", "Merged tokens", _merged(e)),
        ("notes", "Notes", _list(e.notes)),
    ]
    body = "".join(
        f'<section class="{kind}"><{below}>{name}</{below}>{content}</section>'
        for kind, name, content in sections
        if content
    )
    return (
        f"<article{own}><h{level}>{place}{_text(e.id)} "
        f'<span class="n">{e.score:.4f}</span></h{level}><div class="parts">{body}</div>'
        "</article>"
    )


def shaded(text: str, highlights: Sequence[Highlight], offset: int = 0) -> str:
    """A text whose highlights are shaded by what they add, the most of all the darkest.

    Args:
        text: the text, or a passage of it.
        highlights: in order and without overlaps, in characters of the whole.
        offset: where the passage begins.
    """
    most = max((abs(h.contribution) for h in highlights), default=0.0)
    out, done = [], 0
    for h in highlights:
        start, end = max(h.start - offset, 0), min(h.end - offset, len(text))
        if start >= end:
            continue
        part = abs(h.contribution) / most
        kind = ' class="less"' if h.contribution < 0 else ""
        out.append(escaped(text[done:start]))
        out.append(
            f'<mark{kind} style="--w:{part:.2f}" title="{h.contribution:+.4f}">'
            f"{escaped(text[start:end])}</mark>"
        )
        done = end
    out.append(escaped(text[done:]))
    return "".join(out)


def escaped(text: str) -> str:
    """A text for an element or a quoted attribute: markup as text, controls as their pictures."""
    return html.escape("".join(map(_seen, text)), quote=True)


def _seen(character: str) -> str:
    """A character, or the picture of one that HTML has no place for."""
    code = ord(character)
    if character in "\n\t" or 32 <= code < 127 or code >= 160:
        return "\ufffd" if 0xD800 <= code <= 0xDFFF else character
    if character == "\r":
        return ""
    return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd"


def _text(text: str) -> str:
    """What a document or a query says, on its own as to direction and language."""
    return f'<bdi lang="">{escaped(text)}</bdi>'


def _token(text: str) -> str:
    """A token; a space of its own as a sign that can be seen."""
    return '<abbr title="start of a word">\u2423</abbr>' if text == "\u2581" else _text(text)


def _components(e: Parts) -> str:
    largest = max((abs(c.share) for c in e.components), default=0.0) or 1.0
    ranks = any(c.rank is not None for c in e.components) or e.mode in ("rrf", "dbsf")
    head = ["score", "weight", "share"]
    if ranks:
        head[1] = "place"
    rows = "".join(_component(c, largest, ranks) for c in e.components)
    odd = [c for c in e.components if abs(c.unexplained) >= 0.0005]
    note = "".join(
        f'<p class="s">Of the {_NAMES[c.name]} score {c.unexplained:+.4f} comes from how the '
        "engine compares the vectors; what is stored gives "
        f"{c.score - c.unexplained:.4f}.</p>"
        for c in odd
    )
    columns = "".join(f'<th scope="col" class="n">{name}</th>' for name in head)
    return (
        f'<table><caption class="vh">Components of the score, mode {escaped(e.mode)}</caption>'
        f'<thead><tr><th scope="col">{escaped(e.mode)}</th>{columns}'
        '<td class="bar"></td></tr></thead>'
        f'<tbody>{rows}</tbody><tfoot><tr><th scope="row">sum</th><td></td><td></td>'
        f'<td class="n">{e.score:.4f}</td><td></td></tr></tfoot></table>{note}'
    )


def _component(c: Component, largest: float, ranks: bool) -> str:
    if ranks:
        middle = "not in the list" if c.rank is None else f"{c.rank}"
    else:
        middle = "" if c.weight is None else f"{c.weight:.2f}"
    width = 100 * abs(c.share) / largest
    less = " less" if c.share < 0 else ""
    return (
        f'<tr><th scope="row">{_NAMES[c.name]}</th><td class="n">{c.score:.4f}</td>'
        f'<td class="n">{middle}</td><td class="n">{c.share:.4f}</td>'
        f'<td class="bar" aria-hidden="true"><span class="fill{less}" '
        f'style="width:{width:.1f}%"></span></td></tr>'
    )


def _document(e: Parts) -> str:
    if not e.text:
        return ""
    legend = (
        '<p class="s" aria-hidden="true">little <span class="key"></span> much of the score</p>'
        if e.highlights
        else ""
    )
    if len(e.text) <= _TEXT:
        parts = shaded(e.text, e.highlights)
    else:
        spans = list(_passages(e.text, e.highlights))
        parts = '<span class="gap"> … </span>'.join(
            shaded(e.text[a:b], [h for h in e.highlights if a <= h.start < b], a) for a, b in spans
        )
        shown = sum(b - a for a, b in spans)
        legend += f'<p class="s">{shown:,} of {len(e.text):,} characters, around what matched.</p>'
    return f'<div class="text" dir="auto" lang="">{parts}</div>{legend}'


def _passages(text: str, highlights: Sequence[Highlight]) -> Iterable[tuple[int, int]]:
    """Stretches of a long text around what adds most, in order, no more than is shown."""
    chosen: list[tuple[int, int]] = []
    room = _TEXT
    for h in sorted(highlights, key=lambda h: -abs(h.contribution)):
        start, end = max(0, h.start - _AROUND), min(len(text), h.end + _AROUND)
        if room < end - start:
            break
        room -= end - start
        chosen.append((start, end))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(chosen or [(0, _TEXT)]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _terms(e: Parts) -> str:
    if not e.terms:
        return ""
    head = ("query", "document", "product")
    columns = "".join(f'<th scope="col" class="n">{name}</th>' for name in head)
    rows = "".join(
        f'<tr><th scope="row">{_word(t.text, t.id)}</th><td class="n">{t.query_weight:.4f}</td>'
        f'<td class="n">{t.document_weight:.4f}</td><td class="n">{t.product:.4f}</td></tr>'
        for t in e.terms[:_TERMS]
    )
    total = math.fsum(t.product for t in e.terms)
    return (
        '<table><caption class="vh">Lexical terms that both have, with their weights</caption>'
        f'<thead><tr><th scope="col">term</th>{columns}</tr></thead><tbody>{rows}</tbody>'
        f'<tfoot><tr><th scope="row">sum</th><td></td><td></td><td class="n">{total:.4f}</td>'
        f"</tr></tfoot></table>{_left(len(e.terms) - _TERMS)}"
    )


def _word(text: str | None, id: int) -> str:
    return f"token {id}" if text is None else _token(text)


def _matches(e: Parts) -> str:
    if not e.matches:
        return ""
    head = "".join(f'<th scope="col" class="n">{n}</th>' for n in ("similarity", "adds"))
    rows = "".join(
        f'<tr><th scope="row">{_named("query", m.query_vector, m.query_tokens)}</th>'
        f"<td>{_named('document', m.document_vector, m.document_tokens)}</td>"
        f'<td class="n">{m.similarity:.4f}</td><td class="n">{m.contribution:.4f}</td></tr>'
        for m in e.matches[:_MATCHES]
    )
    return (
        '<table><caption class="vh">For each query token the document token most like it'
        '</caption><thead><tr><th scope="col">query token</th><th scope="col">document token'
        f"</th>{head}</tr></thead><tbody>{rows}</tbody></table>{_left(len(e.matches) - _MATCHES)}"
    )


def _named(side: str, vector: int | None, tokens: Sequence[Token]) -> str:
    """A vector by its tokens, or by its number where these aren't known."""
    if vector is None:
        return "none"
    if not tokens:
        return f"{side} vector {vector + 1}"
    shown = " + ".join(_token(token.text) for token in tokens[:3])
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    where = ""
    if side == "document" and tokens[0].start is not None:
        where = f' <span class="at">at {tokens[0].start}</span>'
    return shown + more + where


def _alignment(e: Parts) -> str:
    a = e.alignment
    if a is None or not a.query_vectors or not a.document_vectors:
        return ""
    best = {m.query_vector: m.document_vector for m in e.matches}
    asked = {m.query_vector: _short("q", m.query_vector, m.query_tokens) for m in e.matches}
    held = {v.index: _short("d", v.index, v.tokens) for v in e.vectors}
    columns = "".join(
        f'<th scope="col"><span class="up">{held[j]}</span></th>' for j in a.document_vectors
    )
    numbers = [cell for row in a.similarities for cell in row]
    low, high = min(numbers), max(numbers)
    rows = "".join(
        f'<tr><th scope="row">{asked[i]}</th>{_cells(a, row, best[i], low, high)}</tr>'
        for i, row in zip(a.query_vectors, a.similarities, strict=True)
    )
    left = _restricted(e, a)
    return (
        '<div class="wide" role="region" tabindex="0" '
        f'aria-label="Alignment with {escaped(e.id)}, scrolls sideways"><table class="heat">'
        '<caption class="vh">Similarity of '
        "each query token (rows) and document token (columns); the best of each row is "
        f"outlined</caption><thead><tr><td></td>{columns}</tr></thead><tbody>{rows}</tbody>"
        f'</table></div><p class="s">Similarity in hundredths; each row\'s best is outlined.'
        f"{left}</p>"
    )


def _cells(a: Alignment, row: Sequence[float], best: int | None, low: float, high: float) -> str:
    return "".join(
        f'<td style="--w:{(cell - low) / (high - low or 1.0):.2f}"'
        f"{' class=best' if j == best else ''}>{round(100 * cell)}</td>"
        for j, cell in zip(a.document_vectors, row, strict=True)
    )


def _restricted(e: Parts, a: Alignment) -> str:
    """What of long texts is left out, as a sentence."""
    parts = []
    if len(a.query_vectors) < len(e.matches):
        parts.append(f"{len(a.query_vectors)} of {len(e.matches)} query vectors")
    if len(a.document_vectors) < len(e.vectors):
        parts.append(f"{len(a.document_vectors)} of {len(e.vectors)} document vectors")
    return f" Shown: {' and '.join(parts)}, those that matter most." if parts else ""


def _short(side: str, vector: int, tokens: Sequence[Token]) -> str:
    if not tokens:
        return f"{side}{vector + 1}"
    more = f"+{len(tokens) - 1}" if len(tokens) > 1 else ""
    text = tokens[0].text
    return _token(text if len(text) <= 14 else text[:13] + "…") + more


def _merged(e: Parts) -> str:
    merged = e.merged
    if not merged:
        return ""
    items = "".join(
        f"<li>{', '.join(_text(t.text) for t in vector.tokens)}</li>"
        for vector in merged[:_MERGED]
    )
    return (
        f"<details><summary>{len(merged)} of {len(e.vectors)} stored vectors stand for several "
        f"tokens</summary><ul>{items}</ul>{_left(len(merged) - _MERGED)}</details>"
    )


def _list(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if notes else ""


def _left(n: int) -> str:
    return f'<p class="s">and {n:,} more</p>' if n > 0 else ""


_STYLE = """
.m3q{--a:255 170 0;--b:90 140 255;--m:.45;--line:rgb(128 128 128/.4);line-height:1.5;
max-width:72rem}
.m3q section{margin:0 0 1.25rem}
.m3q h2,.m3q h3,.m3q h4,.m3q h5{line-height:1.25;margin:.75rem 0 .4rem;overflow-wrap:anywhere}
.m3q h3,.m3q h4{font-size:1rem}
.m3q table{border-collapse:collapse;margin:.25rem 0;font-size:.9375rem;text-align:left;
max-width:100%}
.m3q th,.m3q td{padding:.2rem .6rem .2rem 0;vertical-align:top;text-align:left;
overflow-wrap:anywhere;background:none;color:inherit}
.m3q thead th{font-weight:400;border-bottom:1px solid var(--line)}
.m3q tbody th,.m3q tfoot th{font-weight:400}
.m3q tfoot td,.m3q tfoot th{border-top:1px solid var(--line)}
.m3q .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.m3q h2 .n,.m3q h3 .n{font-weight:400}
.m3q .s,.m3q .at{font-size:.875rem;margin:.25rem 0}
.m3q .bar{width:30%;min-width:5rem}
.m3q .fill{display:inline-block;height:.8em;min-width:1px;background:rgb(var(--a))}
.m3q .fill.less{background:rgb(var(--b))}
.m3q .text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;max-width:44rem;
padding:.75rem;border:1px solid var(--line);border-radius:.25rem}
.m3q mark{color:inherit;background:rgb(var(--a)/calc(var(--w)*var(--m)));border-radius:.15em}
.m3q mark.less{background:rgb(var(--b)/calc(var(--w)*var(--m)))}
.m3q .key{display:inline-block;width:6rem;height:.8em;
background:linear-gradient(90deg,rgb(var(--a)/.03),rgb(var(--a)/var(--m)))}
.m3q .wide{overflow-x:auto;max-width:100%}
.m3q .heat{border-spacing:1px;border-collapse:separate;max-width:none}
.m3q .heat th{padding:.1rem .4rem .1rem 0;white-space:nowrap;border:0}
.m3q .heat tbody th{text-align:right;max-width:9rem;overflow:hidden;text-overflow:ellipsis}
.m3q .heat thead th{vertical-align:bottom;padding:0}
.m3q .heat .up{display:block;writing-mode:vertical-rl;transform:rotate(180deg);
max-height:9rem;line-height:1.2;padding:.2rem 0}
.m3q .heat td{min-width:1.6rem;text-align:center;padding:.15rem .1rem;font-size:.8125rem;
font-variant-numeric:tabular-nums}
.m3q .heat tbody td{background:rgb(var(--a)/calc(var(--w)*var(--m)))}
.m3q .heat td.best{outline:2px solid currentColor;outline-offset:-2px;font-weight:700}
.m3q .vh{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}
.m3q :focus-visible{outline:3px solid rgb(var(--b));outline-offset:2px}
.m3q summary{cursor:pointer}
.m3q abbr{text-decoration:none}
"""

_PAGE_STYLE = """
:root{color-scheme:light dark}
body.m3q{--m:.6;margin:0 auto;padding:1rem;font-family:system-ui,sans-serif;background:#fff;
color:#1b1b1b}
.m3q h1{font-size:1.375rem;line-height:1.25;margin:.5rem 0 1rem;overflow-wrap:anywhere}
.m3q h2{font-size:1.125rem;border-top:1px solid var(--line);padding-top:.75rem}
.m3q a{color:#0b57c2}
@media (min-width:60rem){body.m3q{padding:1.5rem 2.5rem}
.m3q .parts{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr);gap:0 2.5rem}
.m3q .alignment,.m3q .merged,.m3q .notes{grid-column:1/-1}
.m3q .terms{grid-column:1}.m3q .matches{grid-column:2}}
@media (prefers-color-scheme:dark){
body.m3q{background:#15171b;color:#ececec;--a:214 120 0}
.m3q a{color:#8ab8ff}}
@media print{.m3q .wide{overflow:visible}}
"""

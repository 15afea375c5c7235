"""Requests: random streams through the decoder, whole and in pieces, beside a model and h11; and some through a server.

Whatever comes, the decoder makes requests of it or refuses it, and raises nothing else. It makes the same of it
wherever it is cut, and just what a plain model of the rules does; and nothing that h11 sees otherwise, but for the
differences that have a reason. A server calls its app for just those requests, and answers each, and the refusal, once
and in turn.
"""

from __future__ import annotations

import random

from conformance.http.decoding import LARGE, SMALL, Outcome, of_h11, ours
from conformance.http.differences import BOTH, H11, IT_ENDS, difference, has_reason
from fuzz.web.model import cut
from fuzz.web.served import play_served
from fuzz.web.streams import random_pieces, random_stream

__all__ = ["play"]

SERVED = 40  # one seed in so many goes through a server


def play(seed: int) -> None:
    """Play one random stream; one seed in some plays several, through a server.

    Raises:
        AssertionError: something is made of it that should not be.
    """
    dice = random.Random(seed)
    if seed % SERVED == 0:
        play_served(dice, f"seed {seed}")
        return
    raw = random_stream(dice)
    pieces = random_pieces(dice, raw)
    for bounds in (LARGE, SMALL):
        whole, parts = ours([raw], bounds), ours(pieces, bounds)
        lengths = [len(piece) for piece in pieces]
        said = f"seed {seed}: {raw!r}: whole {_words(whole)}, in pieces of {lengths} {_words(parts)}"
        assert (whole.requests, whole.environs) == (parts.requests, parts.environs), said
        assert whole.over == parts.over, said
        assert parts.refused or not whole.refused, said  # sooner in pieces at most, never later
    we, model = ours([raw], LARGE), cut(raw)
    said = f"seed {seed}: {raw!r}: we {_words(we)}, the model {model.requests}{' and wrong' if model.wrong else ''}"
    assert we.requests == model.requests, said
    assert we.refused or not model.wrong, said
    it = of_h11(raw)
    told = difference(we, it)
    said = f"seed {seed}: {told}: {raw!r}: we {_words(we)}, h11 {_words(it)}"
    assert has_reason(told, BOTH | H11), said
    assert told != IT_ENDS or we.environs[len(it.requests) - 1]["SERVER_PROTOCOL"] == "HTTP/1.0", said


def _words(outcome: Outcome) -> str:
    return f"{outcome.requests} {outcome.refused or '-'}{' and over' if outcome.over else ''}"

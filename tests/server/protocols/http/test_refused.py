"""Refused: what it says, and that it can be sent elsewhere."""

from __future__ import annotations

import pickle

from treadle.server._protocols.http.refused import Refused


def test_it_says_status_and_reason() -> None:
    refused = Refused(413, "the body is longer than max_body allows")
    assert (refused.status, refused.why) == (413, "the body is longer than max_body allows")
    assert str(refused) == "413, the body is longer than max_body allows"


def test_it_is_the_same_after_a_pickle() -> None:
    again = pickle.loads(pickle.dumps(Refused(400, "why")))
    assert (type(again), again.status, again.why, str(again)) == (Refused, 400, "why", "400, why")

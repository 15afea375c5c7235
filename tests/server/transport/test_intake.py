"""Intake: what a new one holds, and what restarting counts anew."""

from __future__ import annotations

from treadle.server import Lines
from treadle.server._loop.poller import READ
from treadle.server._transport.decoder import RawDecoder
from treadle.server._transport.intake import Intake


def test_a_new_one_has_nothing_and_waits_to_read() -> None:
    intake = Intake(Lines().decoder(100))
    assert (intake.held, intake.received, intake.begun, intake.wait_in) == (0, 0, 0.0, READ)
    assert not intake.waiting
    assert intake.farewell is None
    assert intake.vet is None


def test_only_a_message_that_has_begun_counts_anew() -> None:
    intake = Intake(Lines().decoder(100))
    intake.restart(5.0)
    assert intake.begun == 0.0
    intake.begun, intake.received = 3.0, 7
    intake.restart(5.0)
    assert (intake.begun, intake.received) == (5.0, 0)


class Reads:
    """A decoder that says what it reads."""

    held, phase = 1, "head"

    def feed(self, data: bytes) -> list[bytes]:
        return []

    def finish(self) -> list[bytes]:
        return []


def test_a_phase_that_begins_amid_a_message_counts_anew() -> None:
    decoder = Reads()
    intake = Intake(decoder)
    intake.begun, intake.received = 3.0, 7
    intake.look_at_phase(3.0)
    assert (intake.begun, intake.received, intake.phase) == (3.0, 7, "head")
    intake.look_at_phase(5.0)
    assert (intake.begun, intake.received) == (3.0, 7)
    decoder.phase = "body"
    intake.look_at_phase(5.0)
    assert (intake.begun, intake.received, intake.phase) == (5.0, 0, "body")


def test_the_end_is_something_to_read_for_a_conversation_that_has_paused() -> None:
    intake = Intake(RawDecoder(10))
    intake.end()
    assert (intake.ended, list(intake.waiting)) == (True, [])
    intake.conversation = lambda conn, limits: False
    intake.end()
    assert list(intake.waiting) == [b""]
    intake.drop()
    assert not intake.waiting
    assert intake.conversation is None


def test_what_is_no_message_yet_can_be_had_as_it_came() -> None:
    intake = Intake(Lines().decoder(100))
    assert intake.uncut() == b""
    assert list(intake.decoder.feed(b"one\nhalf")) == [b"one"]
    intake.held, intake.begun, intake.received = 4, 5.0, 8
    assert intake.uncut() == b"half"
    assert (intake.held, intake.begun, intake.received, intake.decoder.held) == (0, 0.0, 0, 0)


def test_what_was_cut_or_cannot_be_given_back_cannot_be_had() -> None:
    intake = Intake(RawDecoder(10))
    assert intake.uncut() == b""
    intake.held = 1
    assert intake.uncut() is None  # a decoder that holds something, and has no `take_rest`
    intake.held = 0
    intake.waiting.append(b"message")
    assert intake.uncut() is None
    intake.drop()
    intake.more = iter([b"message"])
    assert intake.uncut() is None
    intake.drop()
    intake.farewell = b""
    assert intake.uncut() is None

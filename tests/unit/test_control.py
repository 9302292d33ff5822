"""The link between controller and trainer."""

from __future__ import annotations

import asyncio

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch import control
from megatron_srpo.launch.control import ControllerLink, LastWordsError, TrainerGoneError, TrainerLink
from megatron_srpo.launch.supervise import supervise


async def connected(token: str = "secret", silence: float = 60.0) -> tuple[TrainerLink, ControllerLink]:
    link = TrainerLink("secret", silence)
    host, port = await link.listen("127.0.0.1")
    return link, await asyncio.to_thread(ControllerLink, host, port, token, 5.0)


async def test_command_and_answer() -> None:
    controller, trainer = await connected()
    trainer.send({"version": 3})
    assert await controller.hello() == {"version": 3}
    call = asyncio.create_task(controller.call("train", path="x"))
    assert await asyncio.to_thread(trainer.receive) == {"command": "train", "path": "x"}
    trainer.send({"done": True})
    assert await call == {"done": True}
    await controller.close()
    assert await asyncio.to_thread(trainer.receive) is None, "the trainer sees that the controller is gone"
    trainer.close()


async def test_death_of_the_trainer_is_seen() -> None:
    controller, trainer = await connected()
    trainer.send({})
    await controller.hello()
    call = asyncio.create_task(controller.call("train"))
    await asyncio.to_thread(trainer.receive)
    trainer.close()
    with pytest.raises(TrainerGoneError, match="closed its connection"):
        await call
    await controller.close()


async def test_wrong_token_is_turned_away() -> None:
    controller, stranger = await connected("guess")
    stranger.send({"version": 0})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(controller.hello(), 0.3)
    assert await asyncio.to_thread(stranger.receive) is None
    await controller.close()
    stranger.close()


async def test_what_a_dying_trainer_has_sent_in_part_is_no_message() -> None:
    controller, trainer = await connected()
    trainer.send({})
    await controller.hello()
    trainer._file.write(b'{"metrics": {"loss')
    trainer.close()
    with pytest.raises(TrainerGoneError, match="closed its connection"):
        await controller.call("train")
    await controller.close()


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\n", b"[]\n", b'{"token": 1}\n', '{"token": "é"}\n'.encode(), b""]
)
async def test_strangers_do_not_keep_the_trainer_out(line: bytes) -> None:
    controller = TrainerLink("secret", 60.0)
    host, port = await controller.listen("127.0.0.1")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(line)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b"", "the connection is closed"
    writer.close()
    trainer = await asyncio.to_thread(ControllerLink, host, port, "secret", 5.0)
    trainer.send({"version": 1})
    assert await controller.hello() == {"version": 1}
    trainer.close()
    await controller.close()


async def test_a_trainer_that_hangs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life keep a long command waiting; without them it ends."""
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.1)
    controller, trainer = await connected(silence=0.3)
    trainer.send({})
    await controller.hello()
    call = asyncio.create_task(controller.call("train"))
    await asyncio.sleep(1.0)
    trainer.send({"done": True})
    assert await call == {"done": True}
    monkeypatch.setattr(control, "BEAT_SECONDS", 1000.0)
    with pytest.raises(TrainerGoneError, match=r"no sign of rank 0 for 0.3 seconds \(trainer.timeout_seconds\)"):
        await controller.call("train")
    await controller.close()
    trainer.close()


async def test_a_trainer_that_never_connects_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.1)
    controller = TrainerLink("secret", 0.3)
    await controller.listen("127.0.0.1")
    with pytest.raises(TrainerGoneError, match="no sign of rank 0"):
        await controller.hello()
    await controller.close()


async def test_last_words_count_more_than_an_exit_code() -> None:
    """The reason over the link ends the run, although the process that said it is seen to die at the same time."""
    controller, trainer = await connected()
    trainer.send({})
    await controller.hello()
    trainer.send_last_words("a/file: cannot be written")
    trainer.close()
    trainer.send_last_words("to nobody")

    async def watch() -> None:
        raise SrpoError("trainer rank 0 ended by itself")

    with pytest.raises(LastWordsError, match="^a/file: cannot be written$"):
        await controller.call("train")
    gone = asyncio.get_running_loop().create_future()
    gone.set_exception(LastWordsError("a/file: cannot be written"))
    with pytest.raises(LastWordsError):
        await supervise(gone, [watch()])
    await controller.close()

"""The link between controller and trainer."""

from __future__ import annotations

import asyncio

import pytest

from megatron_srpo.launch.control import ControllerLink, TrainerGoneError, TrainerLink


async def connected(token: str = "secret") -> tuple[TrainerLink, ControllerLink]:
    link = TrainerLink("secret")
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

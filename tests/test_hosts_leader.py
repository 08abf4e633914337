"""Which global scheduler a host obeys: none that led before one it has heard of, ever."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulercommon.errors import NotLeader
from tests.agentrig import full_disk, rig
from tests.servers import local_service
from tests.webrig import PLAIN, Web, running

FORMER = (503, "not-leader")
DONE = (200, "")
MADE = (201, "")


async def asks(
    host: Web, epoch: str, method: str = "POST", name: str = "one", **headers: str
) -> tuple[int, str]:
    """The answer to who leads, or did, under *epoch*: to a deploy unless it only looks."""
    document = None if method == "GET" else {**PLAIN, "name": name, "vcpus": 1}
    target = "/v1/host" if method == "GET" else "/v1/vms"
    answer = await host.ask(method, target, document, {"VMStack-Epoch": epoch, **headers})
    return answer.status, answer.json.get("code", "")


async def names(host: Web) -> list[str]:
    return sorted((await host.get("/listvm")).json)


async def test_hosts_obey_no_former_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        assert await asks(host, "5") == MADE
        assert await asks(host, "5") == DONE
        assert await asks(host, "4") == FORMER
        # who only looks says it too, and is told whatever it asks
        assert await asks(host, "7", "GET") == DONE
        assert await asks(host, "6", "GET") == DONE
        assert await asks(host, "6") == FORMER
        for nonsense in ("", "-1", "9" * 30, "0x9", "٩"):
            assert await asks(host, nonsense) == DONE
        assert await asks(host, "7") == DONE
        # who knows of no epochs asks for itself
        assert (await host.ask("DELETE", f"/v1/vms/{PLAIN['name']}")).status == 200


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["told by a change", "told by a poll"])
async def test_a_restart_does_not_bring_a_former_leader_back(tmp_path: Path, method: str) -> None:
    async with running(tmp_path) as host:
        assert (await asks(host, "5", method))[0] < 300
    for _ in range(2):
        async with running(tmp_path) as host:
            assert await asks(host, "4") == FORMER
            assert await names(host) == []
    async with running(tmp_path) as host:
        assert await asks(host, "5") == MADE


@pytest.mark.parametrize("method", ["DELETE", "GET"], ids=["told by a change", "told by a poll"])
def test_nor_does_a_crash(tmp_path: Path, method: str) -> None:
    with local_service(tmp_path) as service:
        told = service.ask(method, "/v1/vms/nobody", headers={"VMStack-Epoch": "5"})
        assert told.json["code"] == "unknown-vm"
        assert service.stop(9) == -9
    with local_service(tmp_path) as service:
        for epoch, code in (("4", "not-leader"), ("5", "unknown-vm")):
            told = service.ask("DELETE", "/v1/vms/nobody", headers={"VMStack-Epoch": epoch})
            assert told.json["code"] == code


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        (
            b'{"snapshot":true,"boot_id":"","generation":7,"owned":{},"outcomes":{},'
            b'"cancelled":[],"begun":[]}\n'
        ),
        b'{"epoch":"5"}\n{"epoch":[5]}\n{"epoch":true}\n{"epoch":5.5}\n{"epo\x00h":5}\n',
        b'{"epoch":5',
    ],
    ids=["none", "of an older version", "damaged", "cut off"],
)
async def test_a_host_that_does_not_remember_obeys_who_asks(tmp_path: Path, journal: bytes) -> None:
    if journal:
        (tmp_path / "journal.jsonl").write_bytes(journal)
    async with running(tmp_path) as host:
        assert await asks(host, "4") == MADE
        assert await asks(host, "3") == FORMER


async def test_nobody_is_obeyed_before_it_is_known_who_led(tmp_path: Path) -> None:
    async with running(tmp_path, ready=False) as host:
        assert await asks(host, "4") == (503, "not-ready")
        assert await asks(host, "6", "GET") == (503, "not-ready")
        await host.keeper.start()
        assert await asks(host, "5") == FORMER
        await host.agent.close()
    async with running(tmp_path) as host:
        assert await asks(host, "5") == FORMER


class Disk:
    """Counts how often it is waited for, and makes them wait or fails where it is to."""

    def __init__(self) -> None:
        self.times = 0
        self.reached = threading.Event()
        self.let_go = threading.Event()
        self.let_go.set()
        self.fails = False

    def sync(self, file: int) -> None:
        self.times += 1
        self.reached.set()
        assert self.let_go.wait(20)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(file)

    def hold(self) -> None:
        self.times = 0
        self.reached.clear()
        self.let_go.clear()


async def test_a_change_waits_until_its_leader_is_on_disk_and_no_other_does(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, sync=disk.sync) as host:
        disk.hold()
        three = [asyncio.create_task(asks(host, "5", name=name)) for name in "abc"]
        await asyncio.to_thread(disk.reached.wait, 20)
        # meanwhile it answers, and takes changes of who knows of no epochs
        assert await asks(host, "5", "GET") == DONE
        assert (await host.deploy("plain")).status == 201
        assert await names(host) == ["plain"]
        assert not any(task.done() for task in three)
        disk.let_go.set()
        assert await asyncio.gather(*three) == [MADE] * 3
        assert await asks(host, "5", name="d") == MADE
        assert disk.times == 1
        assert await asks(host, "6", name="e") == MADE
        assert disk.times == 2


async def test_a_leader_succeeded_while_the_disk_was_waited_for_is_refused(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, sync=disk.sync) as host:
        disk.hold()
        late = asyncio.create_task(asks(host, "5"))
        await asyncio.to_thread(disk.reached.wait, 20)
        assert await asks(host, "6", "GET") == DONE
        disk.let_go.set()
        assert await late == FORMER
        assert await names(host) == []


async def test_nothing_is_done_while_it_could_be_forgotten_who_asked(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, sync=disk.sync) as host:
        disk.fails = True
        for _ in range(2):
            assert await asks(host, "5") == (503, "store-unavailable")
        assert await asks(host, "6", "GET") == DONE
        assert await names(host) == []
        disk.fails = False
        assert await asks(host, "5") == FORMER
        assert await asks(host, "6") == MADE
    async with running(tmp_path) as host:
        assert await asks(host, "5") == FORMER


async def test_nor_while_the_disk_is_full(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        with full_disk(tmp_path):
            assert await asks(host, "5") == (503, "store-unavailable")
            assert await asks(host, "6", "GET") == DONE
            assert await asks(host, "5") == FORMER
            assert await asks(host, "6") == (503, "store-unavailable")
        assert await names(host) == []
        assert await asks(host, "6") == MADE
    async with running(tmp_path) as host:
        assert await asks(host, "5") == FORMER


async def test_a_page_of_another_site_says_nothing_about_leaders(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        assert await asks(host, "9", "GET", Origin="http://elsewhere.example") == DONE
        rebound = await host.get("/v1/host", {"Host": "elsewhere.example", "VMStack-Epoch": "9"})
        assert rebound.status == 200
        assert await asks(host, "5") == MADE


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/v1/host", 401)])
async def test_nor_does_who_has_no_token(tmp_path: Path, path: str, status: int) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token\n")
    async with running(tmp_path, token_file=tokens) as host:
        assert (await host.get(path, {"VMStack-Epoch": "9"})).status == status
        assert await asks(host, "5", Authorization="Bearer a-token") == MADE


epochs = st.integers(1, 6)
histories = st.lists(
    st.one_of(st.tuples(st.sampled_from(("poll", "change")), epochs), st.just(("restart", 0))),
    max_size=12,
)


@settings(max_examples=50)
@given(histories)
def test_whoever_is_obeyed_is_the_newest_heard_of(history: list[tuple[str, int]]) -> None:
    async def live(directory: Path) -> None:
        newest, left = 0, history[::-1]
        while left:
            async with rig(directory) as made:
                while left and (event := left.pop()) != ("restart", 0):
                    kind, epoch = event
                    newest = max(newest, epoch)
                    if kind == "poll":
                        made.agent.hear(epoch)
                        continue
                    obeyed = False
                    with suppress(NotLeader):
                        await made.agent.obey(epoch)
                        obeyed = True
                    assert obeyed == (epoch == newest)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(Path(directory)))

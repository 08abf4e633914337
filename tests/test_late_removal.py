"""A removal that was kept back on its way removes no other VM that has the name by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.webrig import PLAIN, Web, running

VM = f"/v1/vms/{PLAIN['name']}"


async def deployed(host: Web, attempt: str, vcpus: int) -> None:
    answer = await host.ask("POST", "/v1/vms", {**PLAIN, "vcpus": vcpus, "request_id": attempt})
    assert answer.status == 201


async def removed(host: Web, attempt: str) -> tuple[int, str]:
    answer = await host.ask("DELETE", VM, headers={"VMStack-Attempt": attempt})
    return answer.status, answer.json.get("code", "")


async def test_late_removal_spares_the_next_of_that_name(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        await deployed(host, "first", 1)
        assert await removed(host, "first") == (200, "")
        await deployed(host, "second", 2)
        assert await removed(host, "first") == (404, "unknown-vm")
        assert (await host.get(VM)).json["vcpus"] == 2
        assert await removed(host, "second") == (200, "")


@pytest.mark.parametrize("attempt", ["", "never heard of"])
async def test_removal_goes_by_the_name_otherwise(tmp_path: Path, attempt: str) -> None:
    async with running(tmp_path) as host:
        await deployed(host, "first", 1)
        assert await removed(host, attempt) == (200, "")

"""Strict writes over HTTP, on the real system: the log stays clean, and no write is lost."""

from __future__ import annotations

import asyncio

from support.http import Api, outcome, problem


async def test_if_match_writes_only_at_that_version(api: Api) -> None:
    outcome(await api.put("d", 1), 201)
    assert outcome(await api.put("d", 2, If_Match='"1"'))["version"] == 2
    view = problem(await api.put("d", 3, If_Match='"1"'), 412, "precondition_failed")
    assert view["version"] == 2
    problem(await api.put("d", 3, If_Match='"7"'), 412, "precondition_failed")
    assert await api.events() == 2, "the log stays clean"


async def test_if_match_0_means_never_existed(api: Api) -> None:
    assert outcome(await api.put("d", 1, If_Match='"0"'), 201)["version"] == 1
    problem(await api.put("d", 2, If_Match='"0"'), 412, "precondition_failed")
    outcome(await api.delete("d"))
    problem(await api.put("d", 2, If_Match='"0"'), 412, "precondition_failed")


async def test_if_none_match_star_means_absent_now(api: Api) -> None:
    outcome(await api.put("d", 1, If_None_Match="*"), 201)
    problem(await api.put("d", 2, If_None_Match="*"), 412, "precondition_failed")
    outcome(await api.delete("d"))
    assert outcome(await api.put("d", 3, If_None_Match="*"), 201)["version"] == 3


async def test_if_match_takes_a_list_and_a_star(api: Api) -> None:
    problem(await api.put("d", 1, If_Match="*"), 412, "precondition_failed")
    outcome(await api.put("d", 1), 201)
    outcome(await api.put("d", 2, If_Match='"5", "1"'))
    outcome(await api.put("d", 3, If_Match="*"))
    problem(await api.put("d", 4, If_Match='W/"3"'), 412, "precondition_failed")


async def test_patches_and_deletes_are_strict_too(api: Api) -> None:
    outcome(await api.put("d", {}), 201)
    operation = {"op": "add", "path": "/a", "value": 1}
    problem(await api.patch("d", operation, If_Match='"2"'), 412, "precondition_failed")
    outcome(await api.patch("d", operation, If_Match='"1"'))
    problem(await api.delete("d", If_Match='"1"'), 412, "precondition_failed")
    outcome(await api.delete("d", If_Match='"2"'))
    problem(await api.delete("d", If_Match='"3"'), 404, "document_absent")


async def test_a_rejected_event_does_not_make_a_strict_write_stale(api: Api) -> None:
    outcome(await api.put("d", {}), 201)
    problem(await api.patch("d", {"op": "remove", "path": "/a"}), 409, "rejected")
    assert outcome(await api.put("d", 1, If_Match='"1"'))["version"] == 2


async def test_a_strict_write_waits_for_events_already_in_the_log(api: Api) -> None:
    for number in range(1, 20, 2):
        assert (await api.put("d", number, Refold_Wait="0")).status_code == 202
        assert outcome(await api.put("d", number + 1, If_Match=f'"{number}"'))["version"] == number + 1


async def test_a_strict_write_sent_again_under_its_id_is_its_own_duplicate(api: Api) -> None:
    outcome(await api.put("d", 1), 201)
    outcome(await api.put("d", 2, If_Match='"1"', Idempotency_Key="k"))
    again = outcome(await api.put("d", 2, If_Match='"1"', Idempotency_Key="k"))
    assert (again["status"], again["version"]) == ("duplicate", 2)
    problem(await api.put("d", 3, If_Match='"1"', Idempotency_Key="k"), 412, "precondition_failed")
    assert await api.events() == 2


async def test_of_concurrent_strict_writes_exactly_one_creates_a_version(api: Api) -> None:
    outcome(await api.put("d", 0), 201)
    for version in range(1, 4):
        answers = await asyncio.gather(
            *(api.put("d", [version, number], If_Match=f'"{version}"') for number in range(12))
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] + [412] * 11
    assert await api.events() == 4


async def test_counting_with_strict_writes_loses_no_count(api: Api) -> None:
    outcome(await api.put("counter", 0), 201)

    async def increment() -> None:
        while True:
            found = await api.get("counter")
            answer = await api.put("counter", found.json() + 1, If_Match=found.headers["etag"])
            if answer.status_code == 200:
                return
            assert answer.status_code in {412, 503}, answer.text

    await asyncio.gather(*(increment() for _ in range(12)))
    assert (await api.get("counter")).json() == 12


async def test_of_concurrent_creations_exactly_one_succeeds(api: Api) -> None:
    answers = await asyncio.gather(*(api.put("d", number, If_None_Match="*") for number in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * 9

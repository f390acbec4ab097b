"""Four people plan a party in one document, all at once; nothing that anyone writes is lost.

`python examples/02_collaborative_editing/main.py` starts a system in a temporary folder, and ends it.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import nats
from line import Line
from people import DOCUMENT, NAMESPACE, WAIT_SECONDS, Person, PersonOnNats

from refold import System, temporary_system
from refold.client import Refold, ServiceUnavailable

KEY = NAMESPACE, DOCUMENT
PARTY = {
    "title": "Summer party",
    "place": {"where": "garden", "month": "June"},
    "notes": "Bring salad and games.",
    "cards": [{"text": text} for text in ("rent tables", "buy drinks", "find music", "ask the neighbours")],
    "votes": {"garden": 0, "lake": 0},
}
ROUNDS = 12
"""What each does while Dan is cut off: in a round a word, a card, a move and a vote."""


async def main() -> None:
    """Start the system, let the people in, and play the scenes."""
    async with (
        temporary_system(durability="os") as system,
        team_on(system) as team,
    ):
        line, ada, ben, zoe, dan = team
        await ada.refold.put(*KEY, PARTY, actor="host")
        await write_one_text(ada, ben, zoe, dan)
        await sort_cards(ada, ben, zoe, dan)
        async with resolver(system):
            await try_strategies(ada, ben)
        words = await be_cut_off(line, ada, ben, zoe, dan)
        await account_for(ada.refold, words)
        await undo_and_blame(ada, zoe)
        await compare(ada, ben, zoe, dan)


async def write_one_text(ada: Person, ben: Person, zoe: Person, dan: Person) -> None:
    """Write in one text from the same version; all send at the same time."""
    await look(ada, ben, zoe, dan)
    print("\n▸ Four people write in one text at once")
    print(f'  all see   "{ada.copy["notes"]}"')
    ada.type(" a big", after="Bring")
    ben.erase("salad")
    ben.type("cake", after="Bring ")
    zoe.type(" Come at six.", after="games.")
    dan.type("board ", after="and ")
    for person in (ada, ben, zoe, dan):
        print(f'  {person.name} has   "{person.copy["notes"]}"')
    await send(ada, ben, zoe, dan)
    await look(ada, ben, zoe, dan)
    print(f'  together  "{ada.copy["notes"]}"')
    assert ada.copy["notes"] == "Bring a big cake and board games. Come at six."


async def sort_cards(ada: Person, ben: Person, zoe: Person, dan: Person) -> None:
    """Move, edit, remove and insert cards, and vote: a path means what its author sees there."""
    print("\n▸ They move, edit, remove and insert cards at once")
    print(f"  before  {cards(ada)}")
    ada.edit({"op": "move", "from": ada.card("find music"), "path": "/cards/0"})
    ben.edit({"op": "add", "path": f"{ben.card('find music')}/by", "value": "Ben"})
    zoe.edit({"op": "remove", "path": zoe.card("rent tables")})
    dan.edit({"op": "add", "path": dan.card("ask the neighbours"), "value": {"text": "light the grill"}})
    for person in (ada, ben, zoe, dan):
        person.edit({"op": "inc", "path": f"/votes/{'lake' if person is zoe else 'garden'}", "inc": 1})
    await send(ada, ben, zoe, dan)
    await look(ada, ben, zoe, dan)
    print(f"  after   {cards(ada)}")
    print(f"  votes   {json.dumps(ada.copy['votes'])}")
    assert cards(ada) == "find music (Ben), buy drinks, light the grill, ask the neighbours"
    assert ada.copy["votes"] == {"garden": 3, "lake": 1}


async def try_strategies(ada: Person, ben: Person) -> None:
    """Let Ben change what Ada has changed and he has not seen, under each strategy."""
    print("\n▸ Ben changes what Ada has just changed; his event names the strategy")
    place = {"where": "lake", "month": "June"}, {"where": "garden", "month": "July"}
    for strategy, path, (hers, his), expected in (
        ("reject", "/title", ("By the lake", "In the garden"), "By the lake"),
        ("first_write_wins", "/title", ("Party", "Fest"), "Party"),
        ("last_write_wins", "/title", ("Party", "Fest"), "Fest"),
        ("merge", "/place", place, {"where": "lake", "month": "July"}),
        ("custom:both", "/title", ("Party", "Fest"), "Party & Fest"),
    ):
        await look(ada, ben)
        ada.edit({"op": "replace", "path": path, "value": hers})
        ben.edit({"op": "replace", "path": path, "value": his}, on_conflict=strategy)
        (first,), (second,) = await ada.send(), await ben.send()
        # The resolver's decision is the version after Ada's.
        awaited = first.version + (second.reason == "needs_resolution")
        found = await ada.refold.get(*KEY, path=path, min_version=awaited, timeout_seconds=WAIT_SECONDS)
        outcome = f"{second.status} {second.reason}"
        print(f"  {strategy:17} {outcome:26} {json.dumps(found.state)}")
        assert found.state == expected


async def be_cut_off(line: Line, ada: Person, ben: Person, zoe: Person, dan: Person) -> set[str]:
    """Cut Dan off while he sends; all go on. Return the words that were written."""
    await look(ada, ben, zoe, dan)
    print("\n▸ Dan's train enters a tunnel as he sends; he goes on with his copy, the others with theirs")
    words = do_round(dan, 0)
    line.lose_answers()
    sending = asyncio.create_task(dan.send())
    arrived = len(dan.outbox)
    await ada.refold.get(*KEY, min_version=dan.version + arrived, timeout_seconds=WAIT_SECONDS)
    await line.cut()
    with suppress(ServiceUnavailable):
        await sending
    assert len(dan.outbox) == arrived

    for others in await asyncio.gather(*(work(person) for person in (ada, ben, zoe))):
        words |= others
    await look(ada)
    ada.edit({"op": "remove", "path": ada.card("buy drinks")})
    ada.edit({"op": "replace", "path": "/title", "value": "Party-in-the-light"})
    await send(ada)
    for number in range(1, ROUNDS):
        words |= do_round(dan, number)
    dan.edit({"op": "replace", "path": f"{dan.card('buy drinks')}/text", "value": "buy lemonade"})
    dan.edit({"op": "replace", "path": "/title", "value": "Party-in-the-dark"})

    await line.connect()
    await look(ada)
    behind = ada.version - dan.version
    outcomes = await dan.send()
    repeated = sum(outcome.status == "duplicate" for outcome in outcomes)
    print(
        f"  he is back, {behind} versions behind, and sends {len(outcomes)} events: {repeated} had arrived before"
    )
    assert repeated == arrived
    assert all(outcome.is_effective for outcome in outcomes)
    return words | {"Party-in-the-light", "Party-in-the-dark", "lemonade"}


async def work(person: Person) -> set[str]:
    """Do all rounds, with the events of each in flight together; return the words that were written."""
    words: set[str] = set()
    for number in range(ROUNDS):
        words |= do_round(person, number)
        outcomes = await person.send()
        await person.look(outcomes[-1].version or 0)
    return words


def do_round(person: Person, number: int) -> set[str]:
    """Write a word somewhere, make a card somewhere, move one and vote; return the words."""
    chance = Random(f"{person.name} {number}")  # noqa: S311 - not a secret.
    word, card = f"{person.name}{number:02}", f"{person.name}-card{number:02}"
    ends = [found.end() for found in re.finditer(r"\S+", person.copy["notes"])]
    person.type_at(chance.choice(ends), f" {word}")
    source, target, place = (f"/cards/{chance.randrange(len(person.copy['cards']))}" for _ in range(3))
    person.edit({"op": "add", "path": place, "value": {"text": card}})
    person.edit(
        {"op": "move", "from": source, "path": target}, {"op": "inc", "path": "/votes/lake", "inc": 1}
    )
    return {word, card}


async def account_for(refold: Refold, words: set[str]) -> None:
    """Find every word in the document, or in what its conflicts say was dropped or overwritten."""
    state = (await refold.get(*KEY)).state
    missing = words - words_in(state)
    print("\n▸ Everything that anyone wrote is accounted for")
    print(
        f"  {len(words) - len(missing)} of {len(words)} words and cards are there; of the others GET …/conflicts says:"
    )
    changes = {change.version: change async for change in refold.history(*KEY)}
    reported: set[str] = set()
    async for conflict in refold.conflicts(*KEY):
        gone = [
            (conflict.event["patch"][dropped["operation"]], conflict.actor, f"dropped, {dropped['reason']}")
            for dropped in conflict.dropped
        ]
        for version in conflict.overwrote:
            author = changes[version].actor
            gone += [(item, author, f"overwritten by {conflict.actor}") for item in changes[version].patch]
        for operation, author, why in gone:
            if found := words_in(operation) & missing:
                reported |= found
                print(f"  {author} wrote {json.dumps(operation['value'])}: {why}")
    assert reported == missing
    assert state["votes"]["lake"] == 1 + 4 * ROUNDS


async def undo_and_blame(ada: Person, zoe: Person) -> None:
    """Undo one version of long ago and nothing else; undo the undo."""
    refold = ada.refold
    before = await refold.get(*KEY)
    changes = [change async for change in refold.history(*KEY)]
    sentence = next(it for it in changes if it.actor == zoe.name)
    undone = await refold.undo(*KEY, sentence.version, actor=ada.name)
    without = await refold.get(*KEY)
    await refold.undo(*KEY, undone.version, actor=zoe.name)
    again = await refold.get(*KEY)
    print("\n▸ Ada undoes what Zoë wrote first, long ago; Zoë does it again")
    for found in (before, without, again):
        # The words of the tunnel, which stay, are not shown.
        print(" ", " ".join(word for word in found.state["notes"].split() if not word[-2:].isdigit()))
    assert words_in(before.state) - words_in(without.state) == {"Come", "at", "six."}
    assert again.state == before.state
    print("\n▸ Who wrote what is there now?   refold blame team/party /place")
    async for leaf in refold.blame(*KEY, path="/place"):
        print(f"  {leaf.path:14} {leaf.value:6} {leaf.actor}")


async def compare(*team: Person) -> None:
    """Compare each copy, made of changes in their order, with the server's document."""
    await look(*team)
    head = await team[0].refold.get(*KEY)
    for person in team:
        assert (person.version, person.copy) == (head.version, head.state), person.name
    print(f"\n▸ {len(team)} copies, each made of {head.version} changes, are equal to the server's document")


async def send(*people: Person) -> None:
    """Let people send at the same time; each event has an effect."""
    for outcomes in await asyncio.gather(*(person.send() for person in people)):
        for outcome in outcomes:
            outcome.raise_for_status()


async def look(*people: Person) -> None:
    """Let people see the newest version."""
    head = await people[0].refold.get(*KEY)
    for person in people:
        await person.look(head.version)


def cards(person: Person) -> str:
    """Return the cards as the person sees them."""
    return ", ".join(
        f"{card['text']} ({card['by']})" if "by" in card else card["text"] for card in person.copy["cards"]
    )


def words_in(value: Any) -> set[str]:
    """Return the words of all strings in a JSON value."""
    if isinstance(value, str):
        return set(value.split())
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(words_in, parts))


@asynccontextmanager
async def team_on(system: System) -> AsyncIterator[tuple[Line, Person, Person, Person, Person]]:
    """Let Ada, Ben and Dan in by HTTP, Dan by a line that can be cut, and Zoë by NATS."""
    line, client = Line(system.http), await nats.connect(system.nats)
    await line.connect()
    async with (
        Refold(system.http) as of_ada,
        Refold(system.http) as of_ben,
        Refold(line.url, retry_seconds=0) as of_dan,
    ):
        zoe = PersonOnNats("Zoë", of_ada)
        await zoe.connect(client)
        yield line, Person("Ada", of_ada), Person("Ben", of_ben), zoe, Person("Dan", of_dan)
    await line.cut()
    await client.close()


@asynccontextmanager
async def resolver(system: System) -> AsyncIterator[None]:
    """Run `refold resolver resolvers.py`, as one would in a terminal."""
    module = Path(__file__).with_name("resolvers.py")
    command = [sys.executable, "-m", "refold", "resolver", str(module)]
    servers = ["--url", system.http, "--nats-url", system.nats]
    process = await asyncio.create_subprocess_exec(*command, *servers, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


asyncio.run(main())

"""Addresses of stores: kinds, options, names; unknown options are refused, and no secret is repeated."""

from pathlib import Path

import pytest

from refold.core.errors import HistoryElsewhere, KeyUnknown, Refused, StoreDamaged
from refold.wiring.settings import described, load
from refold.wiring.store_url import read_stores
from refold.wiring.stores import (
    audited_store,
    for_commands,
    naming_repair,
    own_stores,
    projected_store,
    store_urls,
)


def test_stores_are_named_by_their_kind_and_number():
    stores = read_stores("valkey://a/0 postgres://b/d redis://c file:///var/lib/refold%20x")
    assert [store.name for store in stores] == ["redis", "postgres", "redis-2", "files"]
    assert stores[0].url == "redis://a/0"
    assert stores[3].folder == Path("/var/lib/refold x")


def test_options_of_refold_are_taken_out_of_the_drivers_address():
    (store,) = read_stores("postgres://u:p@h/d?sslmode=require&pool=50&connect=2.5&command=30")
    assert store.url == "postgres://u:p@h/d?sslmode=require"
    assert (store.pool, store.connect_seconds, store.command_seconds) == (50, 2.5, 30)
    assert read_stores(store.text) == (store,)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "redis://:s3cret@h?pol=3",
            "must not have the option 'pol': redis has pool, connect, command, retries",
        ),
        ("postgres://u:s3cret@h/d?pool=0", "must have an option pool of postgres from 1 to 1000"),
        ("postgres://u:s3cret@h/d?connect=nan", "must have an option connect of postgres"),
        ("redis://h?retries=1", "must have the option retries only where there are several stores"),
        ("redis://h?retries=1.5 postgres://h/d", "must have an option retries of redis from 0 to 10"),
        ("file:///f?pool=3", "must not have the option 'pool': files has retries"),
        ("file://host/f", "must name a folder of this machine"),
        ("mysql://u:s3cret@h/d", "must be addresses that begin with"),
        ("redis://:s3cret@h redis://:s3cret@h", "one is named twice"),
        ("redis://", "must have a host and, if any, a port from 1 to 65535, as in redis://HOST:6379"),
        ("postgres://", "must have a host"),
        ("postgres://u:s3cret@127.0.0.1:99999/x", "port from 1 to 65535"),
        ("postgres://h1,h2:0/x", "port from 1 to 65535"),
        ("redis://:s3/cret@h:6379", "a password has / ? # @ as %2F"),
        ("redis://:s3cret@h:1/abc", "must name the database of Redis by its number"),
        ("redis://127.0.0.1/3 redis://[::1]:6379/3", "redis and redis-2 are the same"),
        ("postgres://u:s3cret@localhost/d postgresql://127.0.0.1:5432?dbname=d", "named twice"),
        ("file:///f/../g file:///g", "files and files-2 are the same"),
        (" ".join(f"redis://s3cret:p@h{n}" for n in range(9)), "must be 1 to 8 stores"),
    ],
)
def test_a_bad_address_is_refused_by_its_rule_and_not_repeated(monkeypatch, text, rule):
    monkeypatch.setenv("REFOLD_STORES", text)
    with pytest.raises(Refused) as refused:
        load()
    assert refused.value.field == "REFOLD_STORES"
    assert rule in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_several_hosts_sockets_and_other_databases_of_one_server_are_taken():
    addresses = "postgres://h1:1,h2:2/d postgres:///d?host=/run/postgres redis://h/1 redis://h/2"
    assert [store.url for store in read_stores(addresses.replace("/run/", "%2Frun%2F"))] == [
        "postgres://h1:1,h2:2/d",
        "postgres:///d?host=%2Frun%2Fpostgres",
        "redis://h/1",
        "redis://h/2",
    ]


@pytest.mark.parametrize("url", ["postgres://", "postgres://u:s3cret@h:99999/d"])
def test_the_postgres_url_has_a_host_and_a_port(url):
    with pytest.raises(Refused, match="must have a host") as refused:
        load(postgres_url=url)
    assert "s3cret" not in str(refused.value)


def test_flags_are_collected_and_their_passwords_are_hidden():
    settings = load(stores=["redis://:s3cret@h:1", "postgres://u:s3cret@h/d"])
    rows = {row["setting"]: row["value"] for row in described(settings)}
    assert rows["stores"] == "redis://:***@h:1 postgres://u:***@h/d"
    assert "s3cret" not in repr(store_urls(settings))


def test_without_stores_the_one_is_that_of_the_postgres_url():
    (store,) = store_urls(load(postgres_url="postgres://u:p@h/d?application_name=x"))
    assert (store.name, store.url) == ("postgres", "postgres://u:p@h/d?application_name=x")
    assert projected_store(load(postgres_url="postgres://h/d")).url == "postgres://h/d"


def test_a_projector_folds_into_one_of_several_stores_which_is_chosen_by_name():
    stores = ["redis://h:1", "postgres://u:s3cret@h/d"]
    assert projected_store(load(stores=stores, projector_store="postgres")).kind == "postgres"
    with pytest.raises(Refused, match="must be one of redis, postgres") as refused:
        projected_store(load(stores=stores))
    assert refused.value.field == "REFOLD_PROJECTOR_STORE"
    with pytest.raises(Refused, match="there are redis, postgres") as refused:
        projected_store(load(stores=stores, projector_store="files"))
    assert (refused.value.field, refused.value.shape) == ("REFOLD_PROJECTOR_STORE", "files")


def test_the_stores_of_a_data_folder_have_no_address_for_a_service():
    with pytest.raises(Refused, match="only `refold up` starts"):
        store_urls(load(stores=["files"]))


def test_a_folder_with_files_alone_keeps_them(tmp_path):
    assert [store.kind for store in own_stores(load(data=tmp_path))] == ["postgres"]
    (tmp_path / "files").mkdir()
    assert [store.kind for store in own_stores(load(data=tmp_path))] == ["files"]
    (tmp_path / "postgres").mkdir()
    assert [store.kind for store in own_stores(load(data=tmp_path))] == ["postgres"]


REDIS, FILES = "redis://:s3cret@h:1/3", "file:///f"


def test_a_recent_store_is_neither_verified_nor_rebuilt_and_the_error_says_what_to_do():
    several, alone = load(stores=[REDIS, FILES]), load(stores=[REDIS])
    assert audited_store(several, None).name == "files"
    with pytest.raises(HistoryElsewhere, match="`refold store compare redis files` checks it"):
        audited_store(several, "redis")
    with pytest.raises(HistoryElsewhere, match="beside a second store"):
        audited_store(alone, None)
    with pytest.raises(HistoryElsewhere, match=r"`redis-cli -h h -p 1 -n 3 FLUSHDB`.*folds it again"):
        audited_store(alone, None, is_rebuilt=True)


@pytest.mark.parametrize("error", [StoreDamaged, KeyUnknown])
@pytest.mark.parametrize(
    ("stores", "repair"),
    [
        ([FILES], "`refold rebuild --from-nothing` rebuilds"),
        ([FILES, "file:///g"], "`refold rebuild --from-nothing --store files-2` rebuilds"),
        ([FILES, REDIS], "empty it by `redis-cli -h h -p 1 -n 3 FLUSHDB`"),
    ],
)
def test_what_repairs_a_store_names_it(error, stores, repair):
    settings = load(stores=stores)
    # What a rebuild hands on to its children has one store alone.
    alone = load(stores=stores[-1:])
    outer, inner = (naming_repair(store_urls(it)[-1], it) for it in (settings, alone))
    with pytest.raises(error) as raised, outer, inner:
        raise error("it is lost", at=7)
    assert repair in raised.value.message
    assert (raised.value.message.count("it is lost"), raised.value.facts) == (1, {"at": 7})


def test_commands_do_not_wait_long_for_redis():
    settings = for_commands(load(stores=[REDIS, f"{REDIS[:-1]}4?command=70", "postgres://h/d"]))
    assert [store.command_seconds for store in store_urls(settings)] == [10, 70, None]


def test_each_of_several_stores_has_its_own_retries():
    stores = read_stores("redis://h:1?retries=0 file:///f?retries=3 postgres://h/d")
    assert [store.retries for store in stores] == [0, 3, None]
    assert [store.text for store in stores][1] == "file:///f?retries=3"

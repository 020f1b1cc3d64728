import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shearpin.trace.plain import plain
from shearpin.trace.pool import Chain, Pool, expand

TEXT = st.text(st.characters(categories=None), max_size=80)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=12)


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def conversation(turns: int) -> list[dict[str, str]]:
    return [message(f"turn {turn}: {'word ' * 100}") for turn in range(turns)]


@given(VALUES)
def test_a_value_comes_out_as_it_went_in(value):
    assert expand(Pool().value(value)) == plain(value)


@given(st.lists(VALUES))
def test_a_list_comes_out_as_it_went_in(items):
    chain = Pool().chain(items)

    assert list(chain) == plain(items)
    assert len(chain) == len(items)


@given(st.lists(st.lists(st.integers(0, 3))))
def test_lists_in_one_pool_do_not_mix(lists):
    pool = Pool()

    chains = [pool.chain(items) for items in lists]

    assert [list(chain) for chain in chains] == lists


@given(st.lists(st.lists(st.integers(0, 3))))
def test_equal_lists_are_one_node(lists):
    pool = Pool()

    chains = [pool.chain(items) for items in lists]

    for one in chains:
        for other in chains:
            assert (list(one) == list(other)) == (one.node == other.node)


@given(st.lists(st.lists(VALUES, max_size=4), max_size=4))
def test_a_node_comes_after_all_that_it_refers_to(lists):
    pool = Pool()

    for items in lists:
        pool.chain(items)

    for node, (previous, body) in enumerate(pool.links[1:], 1):
        assert previous < node
        assert body < len(pool.bodies)


def test_a_prompt_that_grows_adds_only_what_is_new():
    pool = Pool()
    messages = conversation(200)

    for turns in range(1, 201):
        pool.chain(messages[:turns])

    assert len(pool.bodies) == 200
    assert len(pool.links) == 201


def test_a_prompt_rebuilt_from_equal_parts_adds_nothing():
    pool = Pool()
    pool.chain(conversation(50))

    pool.chain(json.loads(json.dumps(conversation(50))))

    assert len(pool.bodies) == 50


def test_conversations_that_part_share_their_beginning():
    pool = Pool()
    start = conversation(10)

    one = pool.chain([*start, message("left")])
    other = pool.chain([*start, message("right")])

    assert len(pool.links) == 1 + 12
    assert [one[-1]["content"], other[-1]["content"]] == ["left", "right"]


def test_a_message_changed_in_place_is_a_new_message():
    pool = Pool()
    draft = message("before")
    before = pool.chain([draft])

    draft["content"] = "after"
    after = pool.chain([draft])

    assert [before[0]["content"], after[0]["content"]] == ["before", "after"]


def test_what_is_stored_is_a_copy():
    pool = Pool()
    messages = [message("said")]
    chain = pool.chain(messages)

    messages.append(message("more"))
    messages[0]["content"] = "never said"

    assert list(chain) == [message("said")]


@pytest.mark.parametrize("pair", [(1, True), (1, 1.0), (0, False), ("1", 1), (None, "null"), ([], {})])
def test_values_of_different_types_stay_apart(pair):
    chain = Pool().chain(pair)

    assert [type(item) for item in chain] == [type(item) for item in pair]


def test_a_state_that_recurs_is_referenced_not_copied():
    pool = Pool()
    plan = {"goal": "x" * 1000, "open": list(range(100))}

    first = pool.value({"messages": conversation(5), "plan": plan, "count": 1})
    second = pool.value({"messages": conversation(6), "plan": dict(plan), "count": 2})

    assert first["plan"] is second["plan"]
    assert len(pool.bodies) == 6 + 1
    assert expand(second) == {"messages": conversation(6), "plan": plan, "count": 2}


def test_a_long_text_is_one_body_however_often_it_comes():
    pool = Pool()

    first, second = pool.value("long " * 100), pool.value("".join(["long "] * 100))

    assert first is second
    assert pool.index_of(first) == 0


def test_a_stored_body_is_known_by_identity_only():
    pool = Pool()
    stored = pool.value({"inner": {"key": "value"}})["inner"]

    assert pool.index_of(stored) == 0
    assert pool.index_of(dict(stored)) is None


def test_a_chain_reads_like_a_list():
    chain = Pool().chain("abc")

    assert isinstance(chain, Chain)
    assert (chain[0], chain[-1], chain[1:], len(chain)) == ("a", "c", ["b", "c"], 3)
    assert list(reversed(chain)) == ["c", "b", "a"]
    assert "b" in chain
    with pytest.raises(IndexError):
        chain[3]


def test_links_read_back_give_the_same_lists():
    pool, copy = Pool(), Pool()
    chains = [pool.chain(conversation(turns)) for turns in (3, 7, 5)]

    bodies = [copy.add(body) for body in pool.bodies]
    nodes = [0]
    for previous, body in pool.links[1:]:
        nodes.append(copy.extend(nodes[previous], bodies[body]))

    assert [copy.items(nodes[chain.node]) for chain in chains] == [list(chain) for chain in chains]
    assert copy.links == pool.links


def test_a_total_measures_each_item_once():
    pool = Pool()
    measured = []

    def measure(item):
        measured.append(item)
        return len(item["content"])

    totals = [pool.chain(conversation(turns)).total(measure) for turns in range(1, 30)]

    assert totals == [sum(len(item["content"]) for item in conversation(turns)) for turns in range(1, 30)]
    assert len(measured) == 29


def test_a_forgotten_source_does_not_lend_its_identity():
    pool = Pool()
    pool.chain([message("first")])

    pool.forget_sources()
    chains = [pool.chain([message(f"text {number}")]) for number in range(100)]

    assert [chain[0]["content"] for chain in chains] == [f"text {number}" for number in range(100)]

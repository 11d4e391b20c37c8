"""Rows against hand-made ones, and the properties that the plan promises."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_eureka.data.packing import Item, pack, plan_rows, round_up, split_item
from megatron_eureka.families import PUBLISHED
from megatron_eureka.types import ImageKey, Prompt

IMAGE = 9
INFO = replace(PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"], image_token_id=IMAGE)
KEY = ImageKey(digest="a", grid_thw=(1, 2, 4), num_tokens=2)


def prompt(*token_ids: int, images=()) -> Prompt:
    return Prompt("p", 0, (), "", token_ids, token_ids, tuple(images))


def test_a_row_of_two_groups_by_hand():
    first = Item(prompt(1, IMAGE, IMAGE, 2, images=[KEY]), ((11, 12), (13,)), (0, 1))
    second = Item(prompt(3), ((14, 15, 16),), (2,))
    row = pack([first, second], length=12, info=INFO)
    assert row.token_ids.tolist() == [1, 9, 9, 2, 11, 12, 13, 3, 14, 15, 16, 0]
    spans = [(segment.start, segment.end, segment.key_ranges) for segment in row.segments]
    assert spans == [
        (0, 4, ((0, 4),)),
        (4, 6, ((0, 4), (4, 6))),
        (6, 7, ((0, 4), (6, 7))),
        (7, 8, ((7, 8),)),
        (8, 11, ((7, 8), (8, 11))),
        (11, 12, ((11, 12),)),
    ]
    # the prompt's last token predicts the first token of each of its responses
    assert row.predict_index.tolist() == [3, 4, 3, 7, 8, 9]
    assert row.targets.tolist() == [11, 12, 13, 14, 15, 16]
    assert row.sample_index.tolist() == [0, 0, 1, 2, 2, 2]
    assert row.image_index.tolist() == [1, 2] and row.images == (KEY,)
    # the image is 1 x 2 merged patches at position 1; both responses go on from position 4; the next prompt restarts
    assert row.positions[2].tolist() == [0, 1, 2, 3, 4, 5, 4, 0, 1, 2, 3, 0]
    assert row.positions[1].tolist() == [0, 1, 1, 3, 4, 5, 4, 0, 1, 2, 3, 0]
    assert row.num_tokens == 11


def test_an_empty_row_is_padding_with_nothing_to_predict():
    row = pack([], length=4, info=INFO)
    assert row.token_ids.tolist() == [0] * 4 and len(row.targets) == 0 and row.num_tokens == 0
    assert [(s.start, s.end) for s in row.segments] == [(0, 4)]


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="3 tokens"):
        pack([Item(prompt(1, 2), ((3,),), (0,))], length=2, info=INFO)


def test_a_long_group_is_split_and_keeps_its_prompt():
    parts = split_item(Item(prompt(1, 2), ((3, 3), (4, 4), (5,)), (0, 1, 2)), max_tokens=6)
    assert [part.responses for part in parts] == [((3, 3), (4, 4)), ((5,),)]
    assert [part.sample_ids for part in parts] == [(0, 1), (2,)]


def test_each_part_of_a_split_group_has_room_for_its_prompt():
    """Three parts: 4 + 2 x 3 of 10 tokens each; a part that forgot its prompt would take a third response."""
    item = Item(prompt(1, 2, 3, 4), tuple((n, n, n) for n in range(6)), tuple(range(6)))
    parts = split_item(item, max_tokens=10)
    assert [part.sample_ids for part in parts] == [(0, 1), (2, 3), (4, 5)]
    assert [part.num_tokens for part in parts] == [10, 10, 10]


def test_a_response_longer_than_a_row_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="Raise it to at least 5"):
        split_item(Item(prompt(1, 2), ((3, 3, 3),), (0,)), max_tokens=4)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 5))
def test_every_item_is_in_one_row_within_the_budget_and_rows_match(sizes, replicas):
    plan = plan_rows(sizes, max_tokens=50, num_replicas=replicas)
    assert sorted(item for rows in plan for row in rows for item in row) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in row) <= 50 for rows in plan for row in rows)
    assert len(plan) == replicas and len({len(rows) for rows in plan}) == 1
    loads = [sum(sizes[item] for row in rows for item in row) for rows in plan]
    assert max(loads) - min(loads) <= max(sizes, default=0)  # longest first to the lightest bounds the spread


def first_fit_decreasing(sizes: list[int], budget: int) -> list[list[int]]:
    """From the definition: each item, longest first, into the first row that has room."""
    rows: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        room = (row for row in rows if sum(sizes[i] for i in row) + sizes[item] <= budget)
        row = next(room, None)
        if row is None:
            rows.append(row := [])
        row.append(item)
    return rows


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_a_replicas_rows_are_those_of_first_fit(sizes):
    assert plan_rows(sizes, max_tokens=50, num_replicas=1) == [first_fit_decreasing(sizes, 50)]


def test_round_up():
    assert [round_up(n, 4) for n in (1, 4, 5)] == [4, 4, 8]

"""Trees are matched by key, never by position."""

from collections import OrderedDict
from types import MappingProxyType
from typing import NamedTuple

import pytest

from nestgrad import InvalidInput, tree


class Point(NamedTuple):
    x: int
    y: int


def test_leaves_are_named_by_their_path():
    assert tree.named_leaves({"a": [1, (2, 3)], "b": {"c": 4}}) == {"a/0": 1, "a/1/0": 2, "a/1/1": 3, "b/c": 4}


def test_a_bare_leaf_has_the_empty_path():
    assert tree.named_leaves(7) == {"": 7}
    assert tree.unflatten(0, [7]) == 7


def test_none_is_an_empty_subtree_and_comes_back():
    like = {"a": None, "b": 1, "c": {}}
    assert tree.leaves(like) == [1]
    assert tree.unflatten(like, [2]) == {"a": None, "b": 2, "c": {}}


def test_leaves_keep_the_trees_own_order():
    assert tree.leaves({"b": 1, "a": 2}) == [1, 2]


def test_map_matches_by_key_when_the_order_differs():
    first, second = {"a": 1, "b": 2}, {"b": 20, "a": 10}
    assert tree.map(lambda x, y: x + y, first, second) == {"a": 11, "b": 22}


def test_map_refuses_trees_with_other_keys_and_names_one():
    with pytest.raises(InvalidInput, match=r"2 paths are in one of two trees only, limit 0, the first is 'b'"):
        tree.map(lambda x, y: x + y, {"a": 1, "b": 2}, {"a": 1, "c": 2})


@pytest.mark.parametrize(
    "other", [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": [2]}, {"a": 1, "b": None}, [1, 2], 1]
)
def test_matched_refuses_another_structure(other):
    with pytest.raises(InvalidInput, match=r"limit 0.*Remedy: give both trees the same structure"):
        tree.matched({"a": 1, "b": 2}, other)


def test_matched_lists_the_leaves_of_each_other_tree_in_the_order_of_the_first():
    like = {"b": 0, "a": [0, None]}
    assert tree.matched(like, {"a": [1, None], "b": 2}, {"b": "x", "a": ["y", None]}) == [[2, 1], ["x", "y"]]


def test_two_leaves_on_one_path_are_refused():
    with pytest.raises(InvalidInput, match="share the path 'a/b'"):
        tree.named_leaves({"a": {"b": 1}, "a/b": 2})


def test_unflatten_gives_back_the_same_kinds_of_containers():
    like = {"list": [1], "tuple": (2, 3), "named": Point(4, 5)}
    rebuilt = tree.unflatten(like, tree.leaves(like))
    assert rebuilt == like
    assert isinstance(rebuilt["named"], Point)
    assert isinstance(rebuilt["tuple"], tuple)
    assert isinstance(rebuilt["list"], list)


@pytest.mark.parametrize("mapping", [OrderedDict(a=1), MappingProxyType({"a": 1})])
def test_any_mapping_is_a_node(mapping):
    assert tree.map(lambda x: x + 1, mapping) == {"a": 2}


def test_map_leaves_its_argument_alone():
    values = {"a": [1, 2]}
    tree.map(lambda x: x + 1, values)
    assert values == {"a": [1, 2]}

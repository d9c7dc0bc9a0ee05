"""A backend's table of rules dispatches on the exact type of a spec."""

from dataclasses import dataclass

import pytest

from nestgrad import Dense, Identity, Neumann, Rules, UnsupportedSpec


@pytest.fixture
def rules():
    table = Rules("acme")

    @table.register(Identity)
    def identity(spec, v, *, sign=1):
        return sign * spec.scale * v

    @table.register(Dense)
    def dense(spec, v, *, sign=1):
        return "dense"

    return table


def test_the_rule_of_the_specs_type_is_run_with_its_arguments(rules):
    assert rules(Identity(scale=3.0), 2.0) == 6.0
    assert rules(Identity(scale=3.0), 2.0, sign=-1) == -6.0
    assert rules(Dense(), 2.0) == "dense"


def test_register_returns_the_rule_itself(rules):
    def rule(spec):
        return "mine"

    assert rules.register(Neumann)(rule) is rule


def test_a_spec_without_a_rule_is_refused_with_the_rules_there_are(rules):
    with pytest.raises(
        UnsupportedSpec, match=r"backend 'acme' has no rule for Neumann, limit: Dense, Identity\. Remedy: "
    ):
        rules(Neumann(num_terms=2, step_size=0.1), 2.0)


def test_a_subclass_of_a_spec_is_another_spec(rules):
    @dataclass(frozen=True, kw_only=True)
    class Better(Identity):
        pass

    assert Better not in rules
    with pytest.raises(UnsupportedSpec, match="no rule for Better"):
        rules(Better(), 2.0)


def test_the_table_says_what_it_holds(rules):
    assert Identity in rules
    assert Neumann not in rules
    assert set(rules) == {Identity, Dense}


def test_two_tables_are_apart(rules):
    other = Rules("other")
    assert Identity not in other
    with pytest.raises(UnsupportedSpec, match=r"backend 'other' has no rule for Identity"):
        other(Identity(), 1.0)

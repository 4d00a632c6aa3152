"""Families look members up by name, lazily, and answer unknown names with the nearest known one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from headstart._base.registry import Family, check_fields, check_names, check_parameters
from headstart.errors import UnknownName

LETTERS = Family("letters", {"square_root": "math:sqrt", "gone": "headstart.no_such_module:x"})


def test_a_member_is_imported_when_it_is_asked_for():
    assert LETTERS["square_root"](9.0) == 3.0
    assert "square_root" in LETTERS and "cube" not in LETTERS
    assert LETTERS.builtin_names == ("gone", "square_root") == tuple(LETTERS) and len(LETTERS) == 2
    with pytest.raises(ModuleNotFoundError):
        LETTERS["gone"]


def test_an_unknown_member_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="'square_rot' is not one of the letters; did you mean 'square_root'"):
        LETTERS["square_rot"]


def test_all_unknown_names_come_in_one_error():
    check_names("fields", ["alpha"], ["alpha", "beta"])
    with pytest.raises(UnknownName) as error:
        check_names("fields", ["alfa", "gamma"], ["alpha", "beta"])
    assert len(str(error.value).splitlines()) == 2


def test_fields_and_parameters_are_the_known_names():
    @dataclass
    class Options:
        alpha: float = 1.0
        cache: int = field(default=0, init=False)

    def load(name, *, seed=0): ...

    def load_anything(name, **options): ...

    check_fields("options", ["alpha"], Options)
    with pytest.raises(UnknownName, match="cache"):
        check_fields("options", ["cache"], Options)
    check_parameters("options", ["seed"], load)
    check_parameters("options", ["whatever"], load_anything)
    with pytest.raises(UnknownName, match="name"):
        check_parameters("options", ["name"], load)

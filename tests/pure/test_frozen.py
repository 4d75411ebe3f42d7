"""What values share: how they are compared, hashed and shown."""

from __future__ import annotations

from dataclasses import field, replace

from runnerd.frozen import frozen


@frozen
class Point:
    x: int
    y: int = 0


@frozen(kw_only=True)
class Place:
    x: int
    y: int = 0
    hidden: str = field(default="", repr=False)
    drawn: bool = field(default=False, compare=False)


@frozen
class Nothing:
    pass


@frozen
class Tall(Point):
    height: int = 0


def test_values_are_equal_if_all_their_fields_are() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    assert Nothing() == Nothing()


def test_values_of_two_kinds_are_never_equal() -> None:
    others: list[object] = [Tall(1), Place(x=1), (1, 0)]
    assert Point(1) not in others


def test_inherited_fields_are_compared_as_well() -> None:
    assert Tall(1, 2, 3) == Tall(1, 2, 3)
    assert Tall(1, 2, 3) != Tall(0, 2, 3)
    assert Tall(1, 2, 3) != Tall(1, 2, 0)


def test_a_field_may_be_left_out_of_comparisons_and_of_what_is_shown() -> None:
    place = Place(x=1)
    assert place == replace(place, drawn=True)
    assert place != replace(place, hidden="other")
    assert repr(place) == "Place(x=1, y=0, drawn=False)"


def test_equal_values_find_each_other_in_a_set() -> None:
    assert {Point(1, 2), Nothing()} == {Point(1, 2), Nothing(), Point(1, 2)}
    assert len({Point(1), Point(2), Tall(1), Tall(1)}) == 3

"""Layer maps by name and by hand, their table, and the layers that a cut student keeps."""

from __future__ import annotations

import pytest

from kd_env.models.layermap import cut_layers, layer_pairs, layer_table


def test_named_maps() -> None:
    assert layer_pairs("uniform", 2, 6) == ((0, 0), (1, 3), (2, 6))
    assert layer_pairs("last", 2, 6) == ((0, 0), (1, 5), (2, 6))
    assert layer_pairs("skip", 3, 12) == ((0, 0), (1, 4), (2, 8))


@pytest.mark.parametrize("teacher", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("student", [1, 2, 4, 6])
def test_uniform_always_covers_the_student_and_ends_at_both_ends(student: int, teacher: int) -> None:
    pairs = layer_pairs("uniform", student, teacher)
    assert [layer for layer, _ in pairs] == list(range(student + 1))
    assert pairs[0] == (0, 0) and pairs[-1] == (student, teacher)
    others = [other for _, other in pairs]
    assert others == sorted(others)


def test_explicit_pairs_are_sorted_by_student_layer() -> None:
    assert layer_pairs([[2, 6], [0, 1]], 2, 6) == ((0, 1), (2, 6))


@pytest.mark.parametrize(
    ("layer_map", "words"),
    [
        ("unifrom", ["unifrom", "Did you mean 'uniform'", "skip"]),
        ([], ["empty", "uniform"]),
        ([[1, 7]], ["(1, 7)", "teacher layer 7", "0 (embeddings) to 6"]),
        ([[3, 1]], ["(3, 1)", "student layer 3", "to 2"]),
        ([[-1, 1]], ["(-1, 1)", "out of range"]),
        ([[1, 2], [1, 3]], ["(1, 3)", "already mapped to teacher layer 2"]),
        ([[1, 2, 3]], ["[1, 2, 3]", "two whole numbers"]),
        ([[1, 2.0]], ["two whole numbers"]),
        (["12"], ["two whole numbers"]),
    ],
)
def test_bad_maps_name_value_range_and_remedy(layer_map: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        layer_pairs(layer_map, 2, 6)  # type: ignore[arg-type]
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["last", "skip"])
def test_a_deeper_student_needs_uniform(name: str) -> None:
    with pytest.raises(ValueError, match="uniform"):
        layer_pairs(name, 4, 2)


def test_table_has_a_line_for_each_pair() -> None:
    lines = layer_table(((0, 0), (1, 3), (2, 12))).splitlines()
    assert [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line] == [
        ["student layer", "teacher layer"],
        ["embeddings", "embeddings"],
        ["1", "3"],
        ["2", "12"],
    ]


def test_cuts() -> None:
    assert cut_layers("first", 2, 6) == (1, 2)
    assert cut_layers("last", 2, 6) == (5, 6)
    assert cut_layers("skip", 2, 6) == (3, 6)
    assert cut_layers("skip", 4, 6) == (2, 3, 4, 6)
    assert cut_layers((1, 4), None, 6) == (1, 4)
    assert cut_layers("first", None, 3) == (1, 2, 3)


@pytest.mark.parametrize("source", range(1, 13))
def test_skip_keeps_different_layers_and_the_last(source: int) -> None:
    for count in range(1, source + 1):
        kept = cut_layers("skip", count, source)
        assert len(set(kept)) == count and kept[-1] == source and min(kept) >= 1


@pytest.mark.parametrize(
    ("layers", "count", "words"),
    [
        ("frist", 2, ["frist", "Did you mean 'first'"]),
        ("first", 7, ["7", "1 to 6"]),
        ("first", 0, ["0", "1 to 6"]),
        ((1, 7), None, ["7", "1 to 6"]),
        ((0, 1), None, ["0", "1 to 6"]),
        ((2, 1), None, ["increasing order"]),
        ((2, 2), None, ["increasing order"]),
        ((), None, ["empty"]),
        ((1, 2), 3, ["num_hidden_layers=3", "leave it out"]),
    ],
)
def test_bad_cuts(layers: str | tuple[int, ...], count: int | None, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        cut_layers(layers, count, 6)
    assert all(word in str(error.value) for word in words), error.value

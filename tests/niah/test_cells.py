import pytest

from longva.errors import RecipeError
from longva.niah.cells import Grid, Span


def test_a_depth_grid_has_every_length_depth_and_trial_in_order():
    cells = list(Grid(lengths=(20, 10), depths=(1.0, 0.0, 0.25)).cells(trials=2))
    assert [(c.length, c.depth, c.position, c.trial) for c in cells[:6]] == [
        (10, 0.0, 0, 0),
        (10, 0.0, 0, 1),
        (10, 0.25, 2, 0),
        (10, 0.25, 2, 1),
        (10, 1.0, 10, 0),
        (10, 1.0, 10, 1),
    ]
    assert len(cells) == 12
    assert [cell.key for cell in cells] == sorted(cell.key for cell in cells)


def test_the_papers_grid_has_90_squares():
    grid = Grid(
        lengths=Span(start=200, stop=3000, step=200), depths=Span(start=0, stop=1, step=0.2)
    )
    cells = list(grid.cells(trials=5))
    assert len(cells) == 450
    assert {cell.position for cell in cells if cell.length == 3000} == {
        0,
        600,
        1200,
        1800,
        2400,
        3000,
    }


def test_an_absolute_grid_keeps_the_needle_where_it_is():
    grid = Grid(lengths=(10, 20, 30), depths=(0.0, 0.5, 1.0), kind="absolute")
    places = [(cell.length, cell.position) for cell in grid.cells(trials=1)]
    assert places == [(10, 0), (20, 0), (20, 15), (30, 0), (30, 15), (30, 30)]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lengths": (10,), "depths": (0.5, 1.5)}, r"go from 0.0 .* to 1.0 .*, got \[1.5\]"),
        ({"lengths": (10,), "depths": ()}, "got none"),
        ({"lengths": ()}, "at least one length"),
        ({"lengths": (0, 5)}, "each 1 or more"),
    ],
)
def test_a_grid_that_measures_nothing_is_refused(grid, message):
    with pytest.raises(RecipeError, match=message):
        Grid(**grid)


def test_a_span_that_never_ends_is_refused():
    with pytest.raises(RecipeError, match="start <= stop and step > 0"):
        Span(start=0, stop=1, step=0)
    for stop, step in ((1e9, 1e-9), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(RecipeError, match="less than 100,000 values"):
            Span(start=0, stop=stop, step=step)

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.core.errors import InputError
from operant.core.features import aggregation, fourier, matrix, of_states, polynomial, radial_basis, tiles
from operant.core.linear import add_to, value_of

points = st.lists(st.floats(-3, 3), min_size=2, max_size=2)
EVERY = [
    tiles([-1, 0], [1, 2], 4, 3),
    polynomial([-1, 0], [1, 2], 2),
    fourier([-1, 0], [1, 2], 3),
    radial_basis([-1, 0], [1, 2], 4),
]


class TestTiles:
    def test_by_hand(self):
        """Two tilings of two tiles over [0, 1]; the second lies half a tile lower, so its edges are at 1/4 and 3/4."""
        coded = tiles(0, 1, tilings=2, across=2)
        assert coded.size == 6
        active = {x: coded([x]).index.tolist() for x in (0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0)}
        assert active == {
            0.0: [0, 3], 0.2: [0, 3], 0.3: [0, 4], 0.5: [1, 4], 0.7: [1, 4], 0.8: [1, 5], 1.0: [2, 5],
        }  # fmt: skip

    @given(points)
    def test_one_tile_of_every_tiling_is_active(self, x):
        coded = tiles([-1, 0], [1, 2], tilings=4, across=[3, 5])
        active = coded(x)
        assert (active.index // (4 * 6)).tolist() == [0, 1, 2, 3]
        assert active.weight.tolist() == [1.0] * 4
        assert active.index.max() < coded.size == 4 * 4 * 6

    def test_every_tiling_cuts_the_box_in_cells_of_equal_size(self):
        """In one dimension n tilings tell n · across parts of the box apart, all as long."""
        coded = tiles(0, 1, tilings=4, across=3)
        codes = [tuple(coded([(k + 0.5) / 120]).index) for k in range(120)]
        lengths = [len(list(group)) for _, group in itertools.groupby(codes)]
        assert lengths == [10] * 12

    @given(points, st.floats(-0.02, 0.02))
    def test_neighbours_share_tiles(self, x, step):
        """Steps shorter than a tenth of a tile cross an edge of at most one tiling a dimension."""
        coded = tiles([-3, -3], [3, 3], tilings=8, across=2)
        near = [x[0] + step, x[1] - step]
        assert (coded(x).index == coded(near).index).sum() >= 6

    def test_points_far_apart_share_none(self):
        coded = tiles([0, 0], [1, 1], tilings=8, across=4)
        assert not (coded([0.1, 0.1]).index == coded([0.4, 0.1]).index).any()

    def test_displacements_are_odd_multiples(self):
        assert (tiles([0] * 3, [1] * 3, tilings=4).shift * 4).tolist() == [[0, 0, 0], [1, 3, 1], [2, 2, 2], [3, 1, 3]]


class TestBases:
    def test_polynomial_by_hand(self):
        """On the unit square 1, y, y², x, xy, xy², x², x²y, x²y²."""
        x, y = 0.5, 0.25
        expected = [x**i * y**j for i in range(3) for j in range(3)]
        np.testing.assert_allclose(polynomial([0, 0], [1, 1], 2)([x, y]).weight, expected)

    def test_fourier_by_hand(self):
        """Order 1 in two dimensions: 1, cos πy, cos πx, cos π(x + y), the last divided by 2^1/4."""
        x, y = 0.5, 0.25
        expected = [1, np.cos(np.pi * y), np.cos(np.pi * x), np.cos(np.pi * (x + y)) / 2**0.25]
        np.testing.assert_allclose(fourier([0, 0], [1, 1], 1)([x, y]).weight, expected, atol=1e-15)

    @pytest.mark.parametrize("dimensions", [1, 2, 3])
    @pytest.mark.parametrize("order", [0, 1, 3])
    def test_there_are_as_many_as_vectors_of_whole_numbers(self, dimensions, order):
        for make in (polynomial, fourier):
            assert make([0.0] * dimensions, [1.0] * dimensions, order).size == (order + 1) ** dimensions

    def test_the_fourier_basis_is_orthogonal(self):
        basis = fourier(0, 1, 5, scaled=False)
        x = (np.arange(64) + 0.5) / 64
        table = of_states(basis, x).weight
        gram = table.T @ table / 64
        np.testing.assert_allclose(gram, np.diag([1] + [0.5] * 5), atol=1e-12)

    def test_scaled_features_take_steps_that_shrink_with_their_frequency(self):
        """One step on scaled features is the step on plain ones with α_i = α / |c_i|."""
        plain, scaled = fourier([0, 0], [1, 1], 3, scaled=False), fourier([0, 0], [1, 1], 3)
        norm = np.linalg.norm(plain.table, axis=1)
        steps = 0.1 / np.where(norm > 0, norm, 1.0)
        w, v = np.zeros(16), np.zeros((16, 1))
        generator = np.random.default_rng(0)
        for x in generator.random((20, 2)):
            target = np.sin(3 * x.sum())
            w += steps * (target - w @ plain(x).weight) * plain(x).weight
            add_to(v, scaled(x), 0, 0.1 * (target - value_of(v, scaled(x), 0)))
            assert value_of(v, scaled(x), 0) == pytest.approx(w @ plain(x).weight)

    def test_bells_are_1_at_their_centres_and_fall_by_their_width(self):
        basis = radial_basis([0, 0], [1, 2], centres=3, width=0.25)
        np.testing.assert_allclose(basis([0.5, 1.0]).weight.reshape(3, 3)[1], [np.exp(-2), 1, np.exp(-2)])
        assert radial_basis(0, 1, 3)([0.5]).weight[0] == pytest.approx(np.exp(-0.5))


class TestAggregation:
    def test_groups_are_neighbours_of_one_size(self):
        groups = aggregation(10, 3)
        assert [int(groups(s).index[0]) for s in range(10)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert groups.size == 3

    def test_a_group_a_state_is_a_table(self):
        assert (matrix(of_states(aggregation(4, 4), range(4)), 4) == np.eye(4)).all()

    @pytest.mark.parametrize("state", [-1, 4])
    def test_states_that_are_not_there(self, state):
        with pytest.raises(InputError, match=f"state {state} is in no group; states go from 0 to 3"):
            aggregation(4, 2)(state)


@pytest.mark.parametrize("features", EVERY, ids=lambda f: f"{type(f).__name__} of {f.size}")
class TestAll:
    @given(x=points)
    def test_outside_the_box_is_its_nearest_point(self, features, x):
        nearest = np.clip(x, [-1, 0], [1, 2])
        for found, due in zip(features(x), features(nearest), strict=True):
            assert found.tolist() == due.tolist()

    def test_even_at_infinity(self, features):
        assert features([np.inf, -np.inf]).weight.tolist() == features([1, 0]).weight.tolist()

    def test_the_matrix_has_every_active_feature_in_its_place(self, features):
        seen = np.random.default_rng(1).uniform(-1, 2, (5, 2))
        active = of_states(features, seen)
        w = np.random.default_rng(2).normal(size=(features.size, 1))
        expected = [value_of(w, features(x), 0) for x in seen]
        np.testing.assert_allclose(matrix(active, features.size) @ w[:, 0], expected)

    def test_an_observation_that_is_none(self, features):
        for wrong in ([1.0], [1.0, 2.0, 3.0], [np.nan, 1.0]):
            with pytest.raises(InputError, match="these features are of 2 numbers"):
                features(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiles(1, 0), "the lower first"),
        (lambda: fourier([0, -np.inf], [1, 1], 2), "give finite bounds"),
        (lambda: tiles(0, 1, 0), "at least one of each"),
        (lambda: tiles(0, 1, 4, 0), "at least one of each"),
        (lambda: polynomial(0, 1, -1), "the order is -1"),
        (lambda: radial_basis(0, 1, 1), "at least 2"),
        (lambda: radial_basis(0, 1, 4, -1.0), "above 0"),
        (lambda: aggregation(3, 4), "from 1 to 3"),
    ],
)
def test_what_makes_no_features_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

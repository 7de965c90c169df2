"""Every estimator against its definition, and what stands behind a cut against what stands before it."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from operant.core.returns import discounted_sum, gae, lambda_return, n_step_return, td_error, vtrace

SHAPES = [(0,), (1,), (2,), (7,), (3, 1), (3, 8), (2, 0), (2, 3, 13)]
equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
normal = partial(torch.randn, dtype=torch.float64)


def decays(*shape: int) -> Tensor:
    """Decays of all kinds: in (0, 1), exactly 0, negative."""
    kind = torch.randint(0, 4, shape)
    size = torch.rand(shape, dtype=torch.float64)
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, -size, size))


def record(*shape: int) -> dict[str, Tensor]:
    """A trace of random decisions; `value` and `next_value` need not agree, for the equations do not ask it."""
    return {
        "reward": normal(*shape),
        "value": normal(*shape),
        "next_value": normal(*shape),
        "discount": decays(*shape),
        "done": torch.rand(shape) < 0.2,
    }


def without(fields: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: x for name, x in fields.items() if name not in names}


ESTIMATORS = {
    "n_step_return": lambda ratio, value, **r: n_step_return(**r, n=3),
    "lambda_return": lambda ratio, value, **r: lambda_return(**r, lambda_=0.9),
    "gae": lambda ratio, **r: gae(**r, lambda_=0.9),
    "vtrace": lambda ratio, **r: vtrace(**r, ratio=ratio),
}
each_estimator = pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS)


# Definitions, written as sums over one trace.


def sum_by_definition(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = Σ_{k >= t} a_t ⋯ a_{k-1} x_k."""
    steps = len(x)
    sums = [sum((decay[t:k].prod() * x[k] for k in range(t, steps)), torch.zeros(())) for t in range(steps)]
    return torch.stack(sums).to(x) if sums else x


def horizon(done: Tensor, t: int) -> int:
    """The first column after the one that cuts the trace of t."""
    return next((k + 1 for k in range(t, len(done)) if done[k]), len(done))


def n_steps_from(t: int, n: int, reward: Tensor, next_value: Tensor, discount: Tensor, done: Tensor) -> Tensor:
    """Σ_k γ_t ⋯ γ_{k-1} r_k over at most n steps, then γ_t ⋯ γ_{end-1} v."""
    end = min(t + n, horizon(done, t))
    rewards = sum(discount[t:k].prod() * reward[k] for k in range(t, end))
    return rewards + discount[t:end].prod() * next_value[end - 1]


def n_step_by_definition(n: int, **fields: Tensor) -> Tensor:
    return torch.stack([n_steps_from(t, n, **fields) for t in range(len(fields["reward"]))])


def lambda_by_definition(lambda_: float, **fields: Tensor) -> Tensor:
    """(1 - λ) Σ_n λ^{n-1} G^(n), the rest of the weight on the last return (Sutton and Barto, eq. 12.3)."""

    def at(t: int) -> Tensor:
        last = horizon(fields["done"], t) - t
        shorter = sum((1 - lambda_) * lambda_ ** (n - 1) * n_steps_from(t, n, **fields) for n in range(1, last))
        return shorter + lambda_ ** (last - 1) * n_steps_from(t, last, **fields)

    return torch.stack([at(t) for t in range(len(fields["reward"]))])


def vtrace_by_definition(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    discount: Tensor,
    done: Tensor,
    ratio: Tensor,
    rho: float,
    c: float,
) -> Tensor:
    """v_s = V_s + Σ_t (Π_{s <= i < t} γ_i c_i) ρ_t (r_t + γ_t V_{t+1} - V_t) (Espeholt et al. 2018, eq. 1)."""

    def at(s: int) -> Tensor:
        total = value[s].clone()
        for t in range(s, horizon(done, s)):
            weight = math.prod((discount[i] * min(c, ratio[i]) for i in range(s, t)), start=torch.ones(()))
            total += weight * min(rho, ratio[t]) * (reward[t] + discount[t] * next_value[t] - value[t])
        return total

    return torch.stack([at(s) for s in range(len(reward))])


class TestDiscountedSum:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_is_its_definition(self, shape):
        x, decay = normal(*shape), decays(*shape)
        size = math.prod(shape[:-1]), shape[-1]
        rows = zip(x.view(size), decay.view(size), strict=True)
        equal(discounted_sum(x, decay), torch.stack([sum_by_definition(*row) for row in rows]).view(shape))

    @pytest.mark.parametrize("steps", range(1, 35))
    def test_satisfies_the_recurrence_at_every_length(self, steps):
        x, decay = normal(2, steps), decays(2, steps)
        y = discounted_sum(x, decay)
        equal(y[:, -1], x[:, -1])
        equal(y[:, :-1], x[:, :-1] + decay[:, :-1] * y[:, 1:])

    @pytest.mark.parametrize("decay", [0.0, 0.5, -1.0, 1.0, 1])
    def test_one_number_is_the_same_decay_everywhere(self, decay):
        x = normal(3, 9)
        equal(discounted_sum(x, decay), discounted_sum(x, torch.full_like(x, decay)))

    def test_gradient(self):
        x, decay = normal(2, 6).requires_grad_(), torch.rand(2, 6, dtype=torch.float64).add(0.1).requires_grad_()
        assert torch.autograd.gradcheck(discounted_sum, (x, decay))

    @pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e6])
    def test_no_gradient_comes_from_behind_a_cut(self, garbage):
        x, decay = normal(8), torch.full((8,), 0.9, dtype=torch.float64)
        x[4:], decay[3] = garbage, 0.0
        x.requires_grad_(), decay.requires_grad_()
        discounted_sum(x, decay)[:4].sum().backward()
        assert torch.isfinite(x.grad).all()
        assert (x.grad[4:] == 0).all()
        assert torch.isfinite(decay.grad[:4]).all()


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e6])
@each_estimator
def test_what_stands_behind_a_cut_changes_nothing_before_it(estimate, garbage):
    clean = record(3, 12) | {"ratio": torch.rand(3, 12, dtype=torch.float64) * 2}
    clean["done"][:, 7] = True
    spoilt = {name: x.clone() for name, x in clean.items()}
    for name in ("reward", "value", "next_value", "discount", "ratio"):
        spoilt[name][:, 8:] = garbage
    assert torch.equal(estimate(**clean)[:, :8], estimate(**spoilt)[:, :8])


@each_estimator
def test_the_value_of_a_terminal_state_is_never_read(estimate):
    fields = record(3, 12) | {"ratio": torch.rand(3, 12, dtype=torch.float64)}
    spoilt = fields | {"next_value": torch.where(fields["discount"] == 0, math.nan, fields["next_value"])}
    assert spoilt["next_value"].isnan().any()
    assert torch.equal(estimate(**fields), estimate(**spoilt))


@each_estimator
def test_together_is_one_by_one(estimate):
    fields = record(2, 3, 9) | {"ratio": torch.rand(2, 3, 9, dtype=torch.float64)}
    together = estimate(**fields)
    for a in range(2):
        for b in range(3):
            assert torch.equal(together[a, b], estimate(**{name: x[a, b] for name, x in fields.items()}))


@pytest.mark.parametrize("shape", [(0,), (4, 0)], ids=str)
@each_estimator
def test_no_decisions_give_no_returns(estimate, shape):
    fields = record(*shape) | {"ratio": normal(*shape)}
    assert estimate(**fields).shape == shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@each_estimator
def test_the_result_has_the_type_of_the_record(estimate, dtype):
    fields = record(3, 4) | {"ratio": normal(3, 4)}
    fields = {name: x if x.dtype == torch.bool else x.to(dtype) for name, x in fields.items()}
    assert estimate(**fields).dtype == dtype


@each_estimator
def test_shapes_that_would_broadcast_are_refused(estimate):
    fields = record(3, 4) | {"ratio": normal(3, 4)}
    with pytest.raises(TypeError, match="next_value"):
        estimate(**fields | {"next_value": normal(3, 1)})


def test_td_error():
    equal(
        td_error(
            reward=torch.tensor([1.0, 1.0, 1.0]),
            value=torch.tensor([3.0, 3.0, 3.0]),
            next_value=torch.tensor([5.0, 5.0, math.nan]),
            discount=torch.tensor([0.5, -0.5, 0.0]),
        ),
        torch.tensor([0.5, -4.5, -2.0]),
    )


class TestNStepReturn:
    @pytest.mark.parametrize("n", [1, 2, 3, 5, 11, 12, 1000])
    def test_is_its_definition(self, n):
        fields = without(record(12), "value")
        equal(n_step_return(**fields, n=n), n_step_by_definition(n, **fields))

    def test_one_step_is_the_td_target(self):
        fields = record(4, 9)
        error = td_error(**without(fields, "done"))
        equal(n_step_return(**without(fields, "value"), n=1), error + fields["value"])

    def test_all_steps_are_monte_carlo_with_a_bootstrap_at_the_end(self):
        reward, next_value, done = normal(6), normal(6), torch.zeros(6, dtype=torch.bool)
        gamma = torch.full_like(reward, 0.9)
        expected = [
            sum(0.9 ** (k - t) * reward[k] for k in range(t, 6)) + 0.9 ** (6 - t) * next_value[5] for t in range(6)
        ]
        equal(n_step_return(reward, next_value, gamma, done, n=6), torch.stack(expected))

    def test_no_steps_are_refused(self):
        with pytest.raises(ValueError, match="n >= 1, got 0"):
            n_step_return(**without(record(3), "value"), n=0)


class TestLambdaReturn:
    @pytest.mark.parametrize("lambda_", [0, 0.0, 0.3, 0.95, 1.0])
    def test_is_the_weighted_mean_of_n_step_returns(self, lambda_):
        fields = without(record(12), "value")
        equal(lambda_return(**fields, lambda_=lambda_), lambda_by_definition(lambda_, **fields))

    @pytest.mark.parametrize(("lambda_", "n"), [(0.0, 1), (1.0, 12)])
    def test_limits(self, lambda_, n):
        fields = without(record(4, 12), "value")
        equal(lambda_return(**fields, lambda_=lambda_), n_step_return(**fields, n=n))

    def test_lambda_may_differ_from_step_to_step(self):
        fields, lambda_ = without(record(8), "value"), torch.rand(8, dtype=torch.float64)
        following, expected = torch.tensor(math.nan), []
        for t in reversed(range(8)):
            cut = bool(fields["done"][t]) or t == 7
            ahead = (
                fields["next_value"][t] if cut else (1 - lambda_[t]) * fields["next_value"][t] + lambda_[t] * following
            )
            following = fields["reward"][t] + fields["discount"][t] * ahead
            expected.insert(0, following)
        equal(lambda_return(**fields, lambda_=lambda_), torch.stack(expected))


class TestGAE:
    @pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
    def test_plus_value_is_the_lambda_return_where_values_agree(self, lambda_):
        """As in any trace: the next value is the value of the next decision, unless the trace was cut between them."""
        fields = record(4, 12)
        shifted = torch.cat([fields["value"][:, 1:], fields["next_value"][:, -1:]], 1)
        fields["next_value"] = torch.where(fields["done"], fields["next_value"], shifted)
        equal(
            gae(**fields, lambda_=lambda_) + fields["value"],
            lambda_return(**without(fields, "value"), lambda_=lambda_),
        )

    def test_is_the_discounted_sum_of_td_errors(self):
        fields = record(10)
        error = td_error(**without(fields, "done"))
        weight = fields["discount"] * 0.7
        expected = [sum(weight[t:k].prod() * error[k] for k in range(t, horizon(fields["done"], t))) for t in range(10)]
        equal(gae(**fields, lambda_=0.7), torch.stack(expected))

    def test_lambda_0_is_the_td_error(self):
        fields = record(4, 9)
        equal(gae(**fields, lambda_=0.0), td_error(**without(fields, "done")))


class TestVTrace:
    @pytest.mark.parametrize(("rho", "c"), [(1.0, 1.0), (0.5, 0.8), (2.0, 1.5), (math.inf, math.inf)])
    def test_is_its_definition(self, rho, c):
        fields, ratio = record(10), torch.rand(10, dtype=torch.float64) * 2.5
        equal(
            vtrace(**fields, ratio=ratio, clip_rho=rho, clip_c=c),
            vtrace_by_definition(**fields, ratio=ratio, rho=rho, c=c),
        )

    def test_on_policy_it_is_the_full_return(self):
        fields = record(4, 12)
        on_policy = vtrace(**fields, ratio=torch.ones_like(fields["value"]))
        equal(on_policy, gae(**fields, lambda_=1.0) + fields["value"])

    def test_actions_the_target_policy_never_takes_leave_the_value_alone(self):
        fields = record(4, 12)
        equal(vtrace(**fields, ratio=torch.zeros_like(fields["value"])), fields["value"])


@pytest.mark.parametrize("lambda_", [0.0, 1.0])
@pytest.mark.parametrize(("terminal", "fixed_points"), [(False, (10.0, 10.0)), (True, (5.2632, 4.1381))])
def test_a_time_limit_is_no_end(lambda_, terminal, fixed_points):
    """Reward 1 for ever is worth 10 at γ = 0.9. One state, time limit 10: read as termination, it is worth less."""
    reward, done = torch.ones(10), torch.arange(10) == 9
    discount = torch.where(done & terminal, 0.0, 0.9)
    value = torch.tensor(0.0)
    for _ in range(400):
        value = lambda_return(reward, value.expand(10), discount, done, lambda_).mean()
    assert value.item() == pytest.approx(fixed_points[int(lambda_)], abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_negative_discount_changes_sides(n):
    """With discount -γ, returns are those of a zero-sum game in which two players move in turn."""
    reward, next_value, done = normal(9), normal(9), torch.arange(9) == 5
    discount = torch.where(done, 0.0, torch.tensor(-0.9, dtype=torch.float64))

    def worth(t: int, mover: int, player: int, depth: int) -> Tensor:
        """What the player at `player` gets from t on, looking `depth` moves ahead."""
        now = reward[t] if mover == player else -reward[t]
        if done[t]:
            return now
        if depth == 1 or t == 8:
            return now + 0.9 * (next_value[t] if 1 - mover == player else -next_value[t])
        return now + 0.9 * worth(t + 1, 1 - mover, player, depth - 1)

    expected = torch.stack([worth(t, mover=t % 2, player=t % 2, depth=n) for t in range(9)])
    equal(n_step_return(reward, next_value, discount, done, n), expected)
    if n == 9:
        equal(lambda_return(reward, next_value, discount, done, 1.0), expected)


UNUSED = {"n_step_return": {"value", "ratio"}, "lambda_return": {"value", "ratio"}, "gae": {"ratio"}, "vtrace": set()}
FIELDS = {"reward", "value", "next_value", "discount", "done", "ratio"}


@pytest.mark.parametrize(
    ("estimator", "name"),
    [(estimator, name) for estimator in ESTIMATORS for name in sorted(FIELDS - UNUSED[estimator])],
)
def test_records_of_several_shapes_are_refused(estimator, name, unchecked_types):
    fields = record(3, 4) | {"ratio": torch.ones(3, 4, dtype=torch.float64)}
    fields[name] = fields[name][:, :1]
    with pytest.raises(ValueError, match=rf"{name} \[3, 1\]"):
        ESTIMATORS[estimator](**fields)

"""Sum and average of parameter sets: values, gradients, purity, errors."""

import pytest
import torch
from tiny import small_network

from metasum import average_parameters, sum_parameters
from metasum.errors import ArchitectureError, UsageError
from metasum.weights.composition import OPERATORS
from metasum.weights.parameters import parameters_of


def sets(count=2):
    return [parameters_of(small_network(seed)) for seed in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_sum_and_average_are_tensor_by_tensor(count):
    given = sets(count)
    for name in given[0]:
        stacked = torch.stack([s[name] for s in given])
        torch.testing.assert_close(sum_parameters(given)[name], stacked.sum(0))
        torch.testing.assert_close(average_parameters(given)[name], stacked.mean(0))


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_operands_are_not_changed_and_not_returned(operator):
    given = sets()
    before = [{n: t.detach().clone() for n, t in s.items()} for s in given]
    result = OPERATORS[operator](given)
    for name, tensor in result.items():
        tensor.data.zero_()
        assert all(torch.equal(s[name], b[name]) for s, b in zip(given, before, strict=True))


@pytest.mark.parametrize(("operator", "share"), [("sum", 1.0), ("average", 1 / 3)])
def test_every_operand_receives_the_same_gradient(operator, share):
    given = sets(3)
    result = OPERATORS[operator](given)
    weights = {n: torch.randn_like(t) for n, t in result.items()}
    sum((result[n] * weights[n]).sum() for n in result).backward()
    for operand in given:
        for name, tensor in operand.items():
            torch.testing.assert_close(tensor.grad, share * weights[name])


@pytest.mark.parametrize("operator", OPERATORS)
def test_finite_differences_agree(operator):
    def total(a, b, c, d):
        result = OPERATORS[operator]([{"w": a, "b": b}, {"w": c, "b": d}])
        return (result["w"] ** 2).sum() + result["b"].sin().sum()

    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (3,), (2, 3), (3,))]
    assert torch.autograd.gradcheck(total, inputs)


def test_a_different_shape_is_named_with_both_shapes():
    first, second = {"a": torch.zeros(2), "b": torch.zeros(3, 4)}, {"a": torch.zeros(2), "b": torch.zeros(3, 5)}
    with pytest.raises(
        ArchitectureError, match=r"'b' is \[3, 4\] float32 in network 1 and \[3, 5\] float32 in network 2"
    ):
        sum_parameters([first, second])


def test_a_missing_parameter_is_named_whichever_side_lacks_it():
    small, large = {"a": torch.zeros(2)}, {"a": torch.zeros(2), "b": torch.zeros(1)}
    with pytest.raises(ArchitectureError, match=r"'b' is missing in network 1 and \[1\]"):
        sum_parameters([small, large])
    with pytest.raises(ArchitectureError, match=r"'b' is \[1\] float32 in network 1 and missing in network 3"):
        average_parameters([large, large, small])


def test_a_different_dtype_is_an_error():
    with pytest.raises(ArchitectureError, match=r"float32 in network 1 and .* float16 in network 2"):
        sum_parameters([{"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.float16)}])


def test_one_network_is_no_sum():
    with pytest.raises(UsageError, match="at least two networks, not 1"):
        sum_parameters(sets(1))

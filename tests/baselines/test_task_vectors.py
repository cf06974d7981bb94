"""Task arithmetic, TIES, DARE and SLERP, tensor by tensor against mergekit where its definition is the papers'."""

import pytest
import torch
from mergekits import mergekit_itself, theirs
from tiny import small_network

from metasum.errors import ArchitectureError, UsageError
from metasum.merging.dare import DARE
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge, merge_parameters
from metasum.merging.slerp import SLERP
from metasum.merging.task_arithmetic import TaskArithmetic
from metasum.merging.ties import TIES, disjoint_mean_
from metasum.weights.composition import average_parameters, task_arithmetic
from metasum.weights.parameters import parameters_of


@pytest.fixture(scope="module")
def mergekit():
    return mergekit_itself()


def endpoints(count=2):
    networks = [small_network(seed).eval() for seed in range(1, count + 1)]
    return [Endpoint(network, []) for network in networks], dict(small_network(0).state_dict())


def initial_of(state):
    return {name: state[name] for name in parameters_of(small_network())}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("scaling", [0.3, 1.0])
def test_task_arithmetic_is_mergekits(mergekit, count, scaling):
    ends, state = endpoints(count)
    initial = initial_of(state)
    for name, merged in merge(TaskArithmetic(scaling=scaling), ends, initial).items():
        own = [end.parameters[name] for end in ends]
        torch.testing.assert_close(merged, theirs(mergekit, own=own, start=initial[name], scaling=scaling))


def test_task_arithmetic_at_one_over_n_is_the_average_and_differentiates():
    ends, state = endpoints(3)
    merged = merge(TaskArithmetic(scaling=1 / 3), ends, initial_of(state))
    for name, tensor in average_parameters([end.parameters for end in ends]).items():
        torch.testing.assert_close(merged[name], tensor)
    a, b, start = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    task_arithmetic([{"w": a}, {"w": b}], {"w": start}, scaling=0.7)["w"].sum().backward()
    assert torch.equal(a.grad, torch.full_like(a, 0.7))
    assert torch.equal(b.grad, torch.full_like(b, 0.7))
    torch.testing.assert_close(start.grad, torch.full_like(start, 1 - 2 * 0.7))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_on_one_tensor_is_mergekits(mergekit, count, density):
    """On one tensor, since mergekit trims each tensor by itself and the paper the whole vector."""
    generator = torch.Generator().manual_seed(0)
    start, *own = (torch.randn(8, 5, generator=generator) for _ in range(count + 1))
    ours = merge_parameters(TIES(density=density, scaling=0.7), [{"w": tensor} for tensor in own], {"w": start})["w"]
    expected = theirs(
        mergekit,
        own=own,
        start=start,
        density=density,
        scaling=0.7,
        consensus=mergekit.gta.ConsensusMethod.sum,
        sparsification=mergekit.sparsification.magnitude,
    )
    torch.testing.assert_close(ours, expected)


VECTOR = {"large": torch.tensor([5.0, -4.0, 3.0, 2.0]), "small": torch.tensor([0.1, 0.2, -0.3, 0.4, 0.5, 0.6])}
NOTHING = {name: torch.zeros_like(tensor) for name, tensor in VECTOR.items()}


def test_ties_trims_the_whole_vector_not_each_tensor_unless_asked():
    kept = merge_parameters(TIES(density=0.4, scaling=1.0), [VECTOR], NOTHING)
    assert torch.equal(kept["large"], VECTOR["large"])
    assert not kept["small"].any()
    kept = merge_parameters(TIES(density=0.5, scaling=1.0, trim="per-tensor"), [VECTOR], NOTHING)
    assert torch.equal(kept["large"], torch.tensor([5.0, -4.0, 0.0, 0.0]))
    assert torch.equal(kept["small"], torch.tensor([0.0, 0.0, 0.0, 0.4, 0.5, 0.6]))


def test_ties_by_hand():
    stack = torch.tensor([[3.0, -1.0, 2.0, 0.0], [1.0, 2.0, -2.0, 0.0]])
    torch.testing.assert_close(disjoint_mean_(list(stack.clone())), torch.tensor([2.0, 2.0, 0.0, 0.0]))
    ends, state = endpoints()
    initial = initial_of(state)
    merged = merge(TIES(density=1.0, scaling=2.0), ends, initial)
    for name, start in initial.items():
        deltas = [end.parameters[name] - start for end in ends]
        torch.testing.assert_close(merged[name], start + 2 * disjoint_mean_(deltas))


@pytest.mark.parametrize("many", [3, 20])
def test_ties_per_tensor_trims_each_of_many_tensors(many):
    """More of them than are looked at in one reading."""
    own = {f"w{index}": torch.randn(7, generator=torch.Generator().manual_seed(index)) for index in range(many)}
    start = {name: torch.zeros(7) for name in own}
    merged = merge_parameters(TIES(density=0.3, scaling=1.0, trim="per-tensor"), [own], start)
    for name, tensor in own.items():
        largest = tensor.abs().topk(2).values[-1]
        assert torch.equal(merged[name], tensor * (tensor.abs() >= largest))


@pytest.mark.parametrize("drop_rate", [0.0, 0.3, 0.9])
def test_dare_drops_entries_and_rescales_the_rest_as_the_paper_does(drop_rate):
    """Mergekit rescales to the old L1 norm."""
    vector = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    start = {"w": torch.zeros(40, 30)}
    ours = merge_parameters(DARE(drop_rate=drop_rate, scaling=1.0, seed=5), [{"w": vector}], start)["w"]
    kept = ours != 0
    torch.testing.assert_close(ours[kept], (vector / (1 - drop_rate))[kept])
    assert (~kept).float().mean() == pytest.approx(drop_rate, abs=0.05)


def test_dare_keeps_the_mean_and_without_drops_is_task_arithmetic():
    ones, start = {"w": torch.ones(200_000)}, {"w": torch.zeros(200_000)}
    thinned = merge_parameters(DARE(drop_rate=0.9, scaling=1.0), [ones], start)["w"]
    assert float(thinned.mean()) == pytest.approx(1, abs=0.03)
    ends, state = endpoints()
    initial = initial_of(state)
    plain = merge(TaskArithmetic(scaling=0.4), ends, initial)
    for name, tensor in merge(DARE(drop_rate=0.0, scaling=0.4), ends, initial).items():
        torch.testing.assert_close(tensor, plain[name])
    ties = merge(TIES(density=0.5, scaling=0.4), ends, initial)
    for name, tensor in merge(DARE(drop_rate=0.0, scaling=0.4, dare_then="ties", density=0.5), ends, initial).items():
        torch.testing.assert_close(tensor, ties[name])


def test_dare_depends_on_its_seed_and_nothing_else():
    ends, state = endpoints()
    one, again, other = (merge(DARE(seed=seed), ends, initial_of(state))["5.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.5, 1.0])
def test_slerp_is_mergekits(mergekit, position):
    ends, state = endpoints()
    for name, merged in merge(SLERP(position=position), ends, initial_of(state)).items():
        first, second = (end.parameters[name] for end in ends)
        expected = mergekit.slerp(torch.tensor([position]), first[None], second[None])[0]
        angle_is_large = torch.cosine_similarity(first.flatten(), second.flatten(), dim=0) < 0.999
        if angle_is_large and first.any() and second.any():  # mergekit turns linear at a cosine of 0.9995
            torch.testing.assert_close(merged, expected)


def test_slerp_keeps_the_length_of_unit_vectors_and_is_linear_where_there_is_no_arc():
    def slerp(first, second, position):
        return merge_parameters(SLERP(position=position), [{"w": first}, {"w": second}])["w"]

    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(slerp(first, second, 0.5), torch.tensor([0.5, 0.5]).sqrt())
    for other in (2 * first, -first, torch.zeros(2)):
        torch.testing.assert_close(slerp(first, other, 0.25), torch.lerp(first, other, 0.25))


def test_slerp_takes_two():
    ends, state = endpoints(3)
    with pytest.raises(UsageError, match="slerp takes 2 networks, not 3"):
        merge(SLERP(), ends, initial_of(state))


@pytest.mark.parametrize("method", [TaskArithmetic(), TIES(), SLERP()], ids=lambda method: method.name)
def test_another_architecture_is_told_apart(method):
    ends, state = endpoints()
    other = Endpoint(small_network(0, classes=7), [])
    with pytest.raises(ArchitectureError, match=r"7\.weight"):
        merge(method, [ends[0], other], initial_of(state))

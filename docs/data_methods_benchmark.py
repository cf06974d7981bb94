"""What methods that look at images cost, beside the same formulas written down as their papers have them.

    python docs/data_methods_benchmark.py

A line of JSON for each method: the processor's seconds of both on the same networks and images, medians of several
turns, and how far apart the merged networks' answers are. Plain means: every layer's inputs are kept, a pass for each
layer where authors take one, and no thought of cost.
"""

import json
import statistics
import sys
import time
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.func import functional_call

from metasum.merging import METHODS
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.networks.vgg import VGG16
from metasum.weights.composition import average_parameters
from metasum.weights.parameters import parameters_of
from metasum.weights.statistics import recalibrate

IMAGES, TURNS, STEPS, FISHER = 64, 3, 10, 32
RIDGE = 0.01  # of PLeaS


def layers_of(network):
    """The names of all layers with a matrix; channels of one are read by the next."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def inputs_of(network, names, batches):
    """What each of the layers reads, all images together."""
    kept = {name: [] for name in names}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, given, own=kept[name]: own.append(given[0]))
        for name in names
    ]
    with torch.no_grad():
        for images in batches:
            network(images)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(own) for name, own in kept.items()}


def seen(module, inputs):
    """Rows of what each output sees."""
    if isinstance(module, nn.Linear):
        return inputs
    return nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).flatten(0, 1)


def regmean(networks, data, start):
    merged = average_parameters([parameters_of(own) for own in networks])
    heard = [inputs_of(own, layers_of(own), batches) for own, batches in zip(networks, data, strict=True)]
    for name in layers_of(networks[0]):
        total, answers = 0, 0
        for network, inputs in zip(networks, heard, strict=True):
            module = network.get_submodule(name)
            rows = seen(module, inputs[name]).double()
            product = rows.T @ rows / len(rows)
            product = 0.9 * product + 0.1 * product.diag().diag()
            total = total + product
            answers = answers + product @ module.weight.detach().flatten(1).double().T
        total += 1e-6 * total.diag().mean() * torch.eye(len(total))  # a dead channel makes it singular
        weight = merged[f"{name}.weight"]
        merged[f"{name}.weight"] = torch.linalg.solve(total, answers).T.reshape(weight.shape).to(weight)
    return merged


def fisher(networks, data, start):
    generator, merged, every = torch.Generator().manual_seed(0), {}, []
    for network, batches in zip(networks, data, strict=True):
        found = {name: torch.zeros_like(own) for name, own in parameters_of(network).items()}
        for image in torch.cat(batches)[:FISHER].split(1):
            network.zero_grad()
            log = network(image)[0].log_softmax(0)
            log[torch.multinomial(log.detach().exp(), 1, generator=generator).item()].backward()
            for name, own in network.named_parameters():
                found[name] += own.grad.square() / FISHER
        every.append(found)
    for name in every[0]:
        weights = [own[name] + 1e-12 for own in every]
        sums = sum(w * parameters_of(own)[name] for w, own in zip(weights, networks, strict=True))
        merged[name] = (sums / sum(weights)).detach()
    return merged


def rows_of_channels(inputs, channels):
    """`[images and pixels, channels]`, behind a flatten as well."""
    return inputs.reshape(len(inputs), channels, -1).transpose(1, 2).flatten(0, 1)


def correlation(ours, theirs):
    both = torch.corrcoef(torch.cat([ours, theirs], 1).double().T).nan_to_num(0)
    return both[: ours.shape[1], ours.shape[1] :], both


def changed(state, before, reader, write, read):
    """A state in which channels that layer `before` writes, and `reader` reads, go through two matrices."""
    found = dict(state)
    place = before.rpartition(".")[0]
    norm = f"{place}.{int(before.rpartition('.')[2]) + 1}"
    names = [f"{before}.weight", f"{before}.bias", f"{norm}.weight", f"{norm}.bias"]
    names += [f"{norm}.running_mean", f"{norm}.running_var"]
    for name in (own for own in names if own in state):
        found[name] = torch.einsum("ab,b...->a...", write, state[name])
    weight = found[f"{reader}.weight"]
    apart = weight.reshape(len(weight), len(write), -1)
    found[f"{reader}.weight"] = torch.einsum("oc...,cb->ob...", apart, read).reshape(weight.shape)
    return found


def matched(networks, data):
    """The second network's state in the first one's order: a pass of both for each layer, as REPAIR's notebook."""
    first, second = networks
    state, names, everything = second.state_dict(), layers_of(first), [*data[0], *data[1]]
    for before, reader in pairwise(names):
        size = len(first.get_submodule(before).weight)
        ours, theirs = (rows_of_channels(inputs_of(own, [reader], everything)[reader], size) for own in (first, second))
        order = torch.from_numpy(linear_sum_assignment(-correlation(ours, theirs)[0].numpy())[1])
        write = torch.eye(size)[order]
        state = changed(state, before, reader, write, write.T)
    return state


def activation_matching(networks, data, start):
    own, other = parameters_of(networks[0]), matched(networks, data)
    return average_parameters([own, {name: other[name] for name in own}])


def zipit(networks, data, start):
    """Correlations of all channels; the largest entry of the whole matrix is looked for at each merge."""
    states, names, everything = [parameters_of(own) for own in networks], layers_of(networks[0]), [*data[0], *data[1]]
    heard = [inputs_of(own, names, everything) for own in networks]
    for before, reader in pairwise(names):
        size = len(networks[0].get_submodule(before).weight)
        alike = correlation(*(rows_of_channels(inputs[reader], size) for inputs in heard))[1]
        alike.fill_diagonal_(-torch.inf)
        members = torch.eye(2 * size)
        for _ in range(size):
            one, other = sorted(divmod(int(alike.argmax()), len(alike)))
            row = torch.minimum(alike[one], alike[other])
            alike[one], alike[:, one] = row, row
            alike[one, one] = -torch.inf
            members[one] += members[other]
            kept = torch.arange(len(alike)) != other
            alike, members = alike[kept][:, kept], members[kept]
        mean = members / members.sum(1, keepdim=True)
        for index in range(2):
            own = slice(index * size, (index + 1) * size)
            states[index] = changed(states[index], before, reader, 2 * mean[:, own], members[:, own].T)
    return average_parameters(states)


def pleas(networks, data, start):
    """Activations matched, then each layer by PyTorch's least squares on all that it sees."""
    first, second = networks[0], VGG16(width=0.125, dropout=0.0).eval()
    second.load_state_dict(matched(networks, data))
    merged = average_parameters([parameters_of(first), parameters_of(second)])
    return solved([first, second], [*data[0], *data[1]], merged)


def solved(networks, everything, merged):
    names = layers_of(networks[0])
    heard = [inputs_of(own, names, everything) for own in networks]
    for name in names:
        modules = [own.get_submodule(name) for own in networks]
        with torch.no_grad():
            outputs = sum(m(inputs[name]) for m, inputs in zip(modules, heard, strict=True)) / 2
        rows = seen(modules[0], sum(inputs[name] for inputs in heard) / 2)
        rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
        wanted = outputs.movedim(1, -1).reshape(-1, outputs.shape[1]).double()
        average = torch.cat([merged[f"{name}.weight"].flatten(1).T, merged[f"{name}.bias"][None]]).double()
        held = (RIDGE * rows.square().mean()).sqrt() * torch.eye(
            len(average), dtype=torch.float64
        )  # towards the average
        rows, wanted = rows / len(rows) ** 0.5, wanted / len(rows) ** 0.5
        rows, wanted = torch.cat([rows, held]), torch.cat([wanted, held @ average])
        found = torch.linalg.lstsq(rows, wanted).solution.float()
        merged[f"{name}.weight"] = found[:-1].T.reshape(modules[0].weight.shape)
        merged[f"{name}.bias"] = found[-1]
    return merged


def adamerging(networks, data, start):
    base, own = parameters_of(start), [parameters_of(network) for network in networks]
    deltas = [{name: (net[name] - base[name]).detach() for name in base} for net in own]
    factors = torch.full((len(networks), len(base)), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([factors], 1e-3)
    shell = VGG16(width=0.125, dropout=0.0).train()

    def now():
        pairs = enumerate(base.items())
        return {n: t.detach() + sum(f[i] * d[n] for f, d in zip(factors, deltas, strict=True)) for i, (n, t) in pairs}

    for step in range(STEPS):
        optimizer.zero_grad()
        merged = now()
        loss = 0
        for batches in data:
            logits = functional_call(shell, merged, (batches[step % len(batches)],))
            loss = loss - (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            factors.clamp_(0, 1)
    return {name: own.detach() for name, own in now().items()}


PLAIN = {
    "regmean": (regmean, {}),
    "fisher": (fisher, {"merging_images": FISHER}),
    "activation-matching": (activation_matching, {}),
    "zipit": (zipit, {"zip_alpha": 1.0, "zip_beta": 1.0}),
    "pleas": (pleas, {"pleas_ridge": RIDGE}),
    "adamerging": (adamerging, {"adamerging_steps": STEPS}),
}


def timed(make, *what):
    began = time.process_time()
    found = make(*what)
    return time.process_time() - began, found


def apart_on(ours, theirs, data):
    """The largest difference of any logit, beside the largest logit; weights that read dead channels may be any."""
    shell, logits, images = VGG16(width=0.125, dropout=0.0), [], torch.cat([*data[0], *data[1]])
    for merged in (ours, theirs):
        shell.load_state_dict({**shell.state_dict(), **merged})
        with torch.no_grad():
            logits.append(recalibrate(shell, [images])(images))
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = [list(torch.randn(IMAGES, 1, 32, 32).split(32)) for _ in range(2)]
    start, *networks = (recalibrate(VGG16(width=0.125, dropout=0.0), own) for own in (data[0], *data))
    for name, (plain, settings) in PLAIN.items():
        method = METHODS[name](**settings)
        ends = [Endpoint(network.eval(), batches) for network, batches in zip(networks, data, strict=True)]
        initial = parameters_of(start) if method.needs_base else {}
        ours, theirs = [], []
        for _ in range(1 + TURNS):
            ours.append(timed(merge, method, ends, initial))
            theirs.append(timed(plain, networks, data, start))
        seconds = [statistics.median(own for own, _ in turns[1:]) for turns in (ours, theirs)]  # the first one imports
        apart = apart_on(ours[0][1], theirs[0][1], data)
        told = {"method": name, "metasum": round(seconds[0], 2), "plain": round(seconds[1], 2), "apart": apart}
        sys.stdout.write(json.dumps(told | {"ratio": round(seconds[1] / seconds[0], 1)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

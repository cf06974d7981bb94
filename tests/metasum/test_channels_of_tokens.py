"""Networks of tokens: the columns of an embedding are channels, its rows stay; a head may share its weight."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from metasum import align, evaluate, merge, same_function
from metasum.errors import ArchitectureError
from metasum.networks.channels import Axis, channel_groups
from metasum.networks.permuting import permute_network

WORDS, WIDTH = 11, 8
TOKENS = torch.randint(1, WORDS, (6, 5), generator=torch.Generator().manual_seed(0))


class Reader(nn.Module):
    """Embedded tokens and places, `code` on `[N, L, WIDTH]`, a head that shares the embedding's weight or does not."""

    def __init__(self, code, head="own", **parts):
        super().__init__()
        self.token, self.place = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Embedding(5, WIDTH)
        self.code, self.tying = code, head
        self.head = nn.Linear(WIDTH, WORDS, bias=head == "own") if head in ("own", "tied") else nn.Identity()
        if head == "tied":
            self.head.weight = self.token.weight
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, input_ids, attention_mask=None):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.code(self, self.token(input_ids) + self.place(places), input_ids)
        if self.tying == "linear":
            return F.linear(hidden, self.token.weight)
        return hidden @ self.token.weight.T if self.tying == "product" else self.head(hidden)


def by_hand(net, x, ids):
    """Causal attention of two heads, and an MLP, each beside the stream."""
    q, k, v = net.qkv(net.first(x)).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4).unbind(0)
    x = x + net.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
    return (x + net.down(F.gelu(net.up(net.second(x)))))[:, -1]


def attention(head):
    return Reader(
        by_hand,
        head,
        qkv=nn.Linear(WIDTH, 3 * WIDTH),
        out=nn.Linear(WIDTH, WIDTH),
        up=nn.Linear(WIDTH, 12),
        down=nn.Linear(12, WIDTH),
        first=nn.LayerNorm(WIDTH),
        second=nn.LayerNorm(WIDTH),
    )


def encoder():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Reader(lambda net, x, ids: net.body(x, src_key_padding_mask=ids == 0).mean(1), body=body)


def recurrent():
    return Reader(lambda net, x, ids: net.body(x)[0][:, -1], body=nn.LSTM(WIDTH, WIDTH, batch_first=True))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(WORDS, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, input_ids):
        return self.head(self.bag(input_ids).relu())


READERS = {
    "an encoder's layers": encoder,
    "attention by hand": lambda: attention("own"),
    "a tied head": lambda: attention("tied"),
    "a head by function": lambda: attention("linear"),
    "a head by product": lambda: attention("product"),
    "a bag of words": Bag,
}


def made(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build().double().eval()
        with torch.no_grad():
            for tensor in network.parameters():
                if tensor.ndim == 1:
                    tensor.add_(0.3 * torch.randn_like(tensor))
        return network


@pytest.mark.parametrize("kind", READERS)
def test_any_order_of_its_channels_computes_the_same(kind):
    network = made(READERS[kind])
    groups = channel_groups(network, TOKENS)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        moved = copy.deepcopy(network)
        permute_network(moved, groups, [torch.randperm(group.size, generator=generator) for group in groups])
        assert same_function(network, moved, TOKENS) < 1e-9
        assert not torch.equal(next(network.parameters()), next(moved.parameters()))


@pytest.mark.parametrize("kind", READERS)
def test_rows_stay_and_columns_are_one_group(kind):
    network = made(READERS[kind])
    name = next(iter(dict(network.named_parameters())))
    assert [group.size for group in channel_groups(network, TOKENS) if Axis(name, 1) in group.positions] == [WIDTH]
    assert not any(Axis(name, 0) in group.positions for group in channel_groups(network, TOKENS))


@pytest.mark.parametrize("kind", READERS)
def test_a_network_in_another_order_is_brought_back(kind):
    """Batches are those of tokenizers; the average of the two is the network itself."""
    network = made(READERS[kind])
    groups, moved = channel_groups(network, TOKENS), copy.deepcopy(network)
    permute_network(moved, groups, [torch.randperm(g.size, generator=torch.Generator().manual_seed(9)) for g in groups])
    batches = [{"input_ids": TOKENS, "labels": torch.zeros(6, dtype=torch.long)}]
    aligned = align(moved, to=network, images=batches)
    assert same_function(moved, aligned, batches) < 1e-9
    for name, own in network.state_dict().items():
        assert torch.allclose(aligned.state_dict()[name], own, atol=1e-9), name
    merged = merge([network, moved], "weight-matching", images=[batches, batches])
    assert evaluate(merged, batches).loss == pytest.approx(evaluate(network, batches).loss, abs=1e-9)


REFUSED = {
    "recurrent": (recurrent, r"'body' \(LSTM\) does to channels \(in lstm\)"),
    "rows by channels": (
        lambda: Reader(lambda net, x, ids: net.token(x.argmax(-1)).mean(1)),
        "does to channels",
    ),
    "rows that move": (
        lambda: Reader(
            lambda net, x, ids: x.mean(1) + net.other(x.argmax(-1)).mean(1), other=nn.Embedding(WIDTH, WIDTH)
        ),
        "does to channels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_known_is_refused_by_name(kind):
    build, words = REFUSED[kind]
    with pytest.raises(ArchitectureError, match=words):
        channel_groups(made(build), TOKENS)


def test_tokens_have_to_be_given():
    with pytest.raises(ArchitectureError, match="give images that it takes"):
        channel_groups(made(encoder))

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.explicit.attention import Attention
from paretopress.core.model_outputs import by_place
from paretopress.errors import ModelError
from paretopress.intake import faithful as faithful_module
from paretopress.intake.agreement import difference, tolerance
from paretopress.intake.comparison_items import comparison_items
from paretopress.intake.trace import take_in


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: Tensor) -> object:
        return self.fc(self.features(x))


class TwoAttentions(nn.Module):
    """Two attentions behind an embedding; the second is told which tokens are padding, by position."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words, self.fc = nn.Embedding(20, 32), nn.Linear(32, 3)
            self.first, self.second = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))

    def forward(self, tokens: Tensor) -> object:
        x = self.words(tokens)
        x = self.first(x, x, x)[0]
        return self.fc(self.second(x, x, x, tokens == 0)[0][:, 0])


class ReturnsWeights(TwoAttentions):
    def forward(self, tokens: Tensor) -> object:
        x = self.words(tokens)
        x = self.first(x, x, x)[0]
        x, weights = self.second(x, x, x)
        return self.fc(x[:, 0]), weights


@pytest.fixture
def tokens() -> Tensor:
    """Of 12 tokens the first 12, 9, 6 and 3 are no padding."""
    words = torch.randint(1, 20, (4, 12), generator=torch.Generator().manual_seed(0))
    return words * (torch.arange(12) < torch.tensor([[12], [9], [6], [3]]))


def first_output(value: object) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("model", [TwoAttentions(), ReturnsWeights()])
def test_take_in_leaves_out_the_one_rewrite_that_changes_outputs(model: nn.Module, tokens: Tensor) -> None:
    model.eval()
    intake = take_in(model, tokens)
    assert isinstance(intake.module.second, nn.MultiheadAttention)
    assert "first.query" in {layer.name for layer in intake.graph.layers}
    assert "second" in {item.name for item in intake.graph.frozen}
    with torch.inference_mode():
        torch.testing.assert_close(first_output(intake.module(tokens)), first_output(model(tokens)), rtol=1e-4, atol=1e-5)


def test_take_in_says_why_attention_is_left_as_it_is(tokens: Tensor) -> None:
    reasons = {item.name: item.reason for item in take_in(TwoAttentions().eval(), tokens).graph.frozen}
    assert reasons["second"] == "it is called with key_padding_mask, which its form in plain layers does not carry out"


def test_take_in_leaves_out_a_rewrite_that_computes_something_else(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with a form in plain layers, only what agrees on the items is searched."""
    calls = Attention.forward

    def wrong(self: Attention, query: Tensor, *args: object) -> tuple[Tensor, None]:
        return calls(self, query, *args)[0] * 1.001, None

    monkeypatch.setattr(Attention, "forward", wrong)
    intake = take_in(ReturnsWeights().eval(), tokens)
    assert isinstance(intake.module.first, nn.MultiheadAttention)
    assert isinstance(intake.module.second, nn.MultiheadAttention)


def is_recorded() -> bool:
    """Return whether the forward that asks is being recorded: so it can compute something else then."""
    return torch.overrides._get_current_function_mode() is not None


def test_take_in_runs_items_beside_the_example_when_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is blind to the difference: its last column is zero."""

    class Sums(Net):
        def forward(self, x: Tensor) -> object:
            return self.fc(self.features(x)) + last(x)

    def last(x: Tensor) -> Tensor:
        return x[:, 0, 0, -1:] if is_recorded() else 2 * x[:, 0, 0, -1:]

    x = torch.randn(4, 3, 8, 8)
    blind = x.clone()
    blind[..., -1] = 0.0
    take_in(Sums().eval(), blind)
    with pytest.raises(ModelError, match="must compute what the model computes"):
        take_in(Sums().eval(), blind, items=torch.cat([blind, x]))


class Bends(Net):
    """Computes something else when it is traced, behind its convolution."""

    def forward(self, x: Tensor) -> object:
        x = self.conv(x)
        x = self.norm(x if is_recorded() else x * 1.01)
        return self.fc(torch.relu(x).mean((2, 3)))


def test_take_in_names_the_layer_where_the_traced_model_differs() -> None:
    with pytest.raises(ModelError, match="they part at norm"):
        take_in(Bends().eval(), torch.randn(4, 3, 8, 8))


class Drops(Net):
    def forward(self, x: Tensor) -> object:
        return self.fc(nn.functional.dropout(self.features(x)))


class Counts(Net):
    calls = 0

    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return self.fc(self.features(x)) * self.calls


@pytest.mark.parametrize("kind", [Drops, Counts])
def test_take_in_refuses_a_model_that_does_not_put_out_the_same_twice(kind: type[Net]) -> None:
    with pytest.raises(ModelError, match="must put out the same twice"):
        take_in(kind().eval(), torch.randn(4, 3, 8, 8))


class ChangesItsInputs(Net):
    def forward(self, x: Tensor) -> object:
        x.sub_(0.5)
        return self.fc(self.features(x))


def test_take_in_refuses_a_model_that_changes_its_inputs() -> None:
    x = torch.randn(4, 3, 8, 8)
    before = x.clone()
    with pytest.raises(ModelError, match="must not change its inputs"):
        take_in(ChangesItsInputs().eval(), x)
    assert torch.equal(x, before)


class InPlace(Net):
    def forward(self, x: Tensor) -> object:
        x = self.features(x)
        x.mul_(3.0)
        return self.fc(x)


@dataclass
class Outputs:
    logits: Tensor
    features: Tensor


class ByDataclass(Net):
    def forward(self, x: Tensor) -> object:
        x = self.features(x)
        return Outputs(self.fc(x), x)


class Masked(Net):
    def forward(self, x: Tensor) -> object:
        scores = self.fc(self.features(x))
        return {"logits": scores, "masked": torch.where(torch.arange(4) == 1, float("-inf"), scores), "none": scores.log()}


class InHalf(Net):
    def forward(self, x: Tensor) -> object:
        return self.fc(self.features(x.bfloat16())).float()


@pytest.mark.parametrize("model", [InPlace(), ByDataclass(), Masked(), InHalf().bfloat16()])
def test_take_in_accepts_a_model_whose_outputs_agree(model: nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)
    model.eval()
    found = take_in(model, x).module(x)
    value = model(x)
    parts = vars(value) if isinstance(value, Outputs) else value
    wanted = list(parts.values()) if isinstance(parts, dict) else [parts]
    for one, other in zip(wanted, found if isinstance(found, tuple) else (found,), strict=True):
        torch.testing.assert_close(other, one, equal_nan=True, rtol=1e-3, atol=1e-3)


def test_take_in_leaves_the_model_as_it_was() -> None:
    model = Net().train()
    model.norm.eval()
    model.fc.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    take_in(model, torch.randn(4, 3, 8, 8))
    assert [part.training for part in model.modules()] == [part.training for part in before.modules()]
    assert [part.requires_grad for part in model.parameters()] == [part.requires_grad for part in before.parameters()]
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_take_in_decides_in_double_precision_when_single_precision_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance of nothing at all is exceeded by rounding alone, for which no model is refused."""
    torch.manual_seed(0)
    monkeypatch.setattr(faithful_module, "tolerance", lambda model: 1e-12)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    original = faithful_module.Original(model, None, [torch.randn(4, 16)])
    found = original.attempt(torch.randn(4, 16), frozenset()).module
    assert found is not None
    with torch.no_grad():
        found.get_submodule("0").weight.mul_(1.0 + 2e-7)
    assert original.compared(found) is None
    with torch.no_grad():
        found.get_submodule("0").weight.mul_(1.0 + 2e-5)
    assert original.compared(found) is not None


def test_difference_is_none_for_nan_and_infinity_at_the_same_places() -> None:
    value = torch.tensor([[1.0, float("nan"), float("inf"), float("-inf")]])
    assert difference(by_place([value]), by_place([value.clone()]), 0.0) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")])),
        (torch.tensor([1.0, -1e9, 2.0]), torch.tensor([1.01, -1e9, 2.0])),  # a mask's value hides nothing
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.zeros(3), torch.tensor([0.0, 1e-30, 0.0])),
    ],
)
def test_difference_is_found(wanted: Tensor, found: Tensor) -> None:
    assert difference(by_place([wanted]), by_place([found]), 1e-3) is not None


def test_difference_is_found_when_an_output_is_missing() -> None:
    assert difference(by_place([torch.ones(1), torch.ones(1)]), by_place([torch.ones(1)]), 1.0) is not None


def test_tolerance_grows_with_the_root_of_the_terms_that_are_added() -> None:
    narrow, wide = (nn.Linear(width, 2, bias=False) for width in (100, 10_000))
    assert tolerance(narrow) == pytest.approx(4 * 2**-23 * 10)
    assert tolerance(wide) == pytest.approx(10 * tolerance(narrow))


def test_comparison_items_are_from_the_most_padded_to_the_least() -> None:
    lengths = torch.tensor([9, 2, 12, 5, 7, 3, 8, 6])
    words = torch.arange(1, 13).repeat(8, 1) * (torch.arange(12) < lengths[:, None])
    items = comparison_items([(words[index], 0) for index in range(8)], 3, 0)  # type: ignore[arg-type]  # a list is sized and indexable
    assert isinstance(items, Tensor)
    found = (items > 0).sum(1).tolist()
    assert (found[0], found[-1]) == (12, 2)

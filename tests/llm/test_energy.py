"""What a token costs in joules, against a simulated GPU whose energy is known."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gpumon.catalog import GPU, LLM_ENERGY, LLM_TRAFFIC, Entity
from gpumon.llm.energy import WINDOW_SECONDS, Energy, EnergyUse
from tests.node import Node

SERVER, KIND = "127.0.0.1:8000", "vllm"


def traffic(tokens: float, model: str = "m") -> Entity:
    """Give what a model has written."""
    values = {"generated_tokens_total": tokens}
    return Entity(LLM_TRAFFIC, (SERVER, KIND, model, "server"), tuple(map(values.get, LLM_TRAFFIC.index)))


class Meter:
    """An energy counter that the test turns."""

    def __init__(self, *models: str | None, error_ratio: float = 0.0) -> None:
        self.joules = dict.fromkeys(models, 5000.0)  # it had counted before gpumon came
        self.error_ratio = error_ratio

    def __call__(self) -> Iterable[EnergyUse]:
        for model, joules in self.joules.items():
            yield EnergyUse(SERVER, KIND, model, joules, self.error_ratio)


def found(entities: tuple[Entity, ...]) -> dict[str, tuple[float | None, ...]]:
    """Give total, joules per token and its error by model."""
    assert all(entity.kind is LLM_ENERGY for entity in entities)
    return {entity.label("model"): entity.values for entity in entities}


@pytest.mark.parametrize(("profile", "tokens_per_second"), [("h100x1", 900.0), ("rtx4090x1", 55.0)])
def test_a_token_costs_what_the_simulated_gpu_used_for_it_within_2_percent(
    profile: str, tokens_per_second: float
) -> None:
    """Two minutes of a server that has a GPU to itself, read at 2 s, its tokens polled at 5 s."""
    with Node(profile) as node:

        def joules() -> float:
            (gpu,) = node.tick(1).of(GPU)
            value = gpu["energy_driver_joules_total"]
            assert value is not None
            return value

        latest = joules()
        energy = Energy(lambda: [EnergyUse(SERVER, KIND, None, latest, 0.0)])
        began, first = node.now, latest
        at_ticks: dict[float, float] = {}
        values: tuple[float | None, ...] = ()
        for _ in range(60):
            latest = joules()
            at_ticks[node.now] = latest
            polled = began + (node.now - began) // 5 * 5
            entities = energy.entities(node.now, [traffic((polled - began) * tokens_per_second)])
            values = found(entities)["m"]
        total, per_token, error = values
        # The first look is where counting began.
        assert total == pytest.approx(latest - at_ticks[min(at_ticks)], rel=0.02)
        assert latest - first > 1000
        recent = [time for time in at_ticks if time >= node.now - WINDOW_SECONDS]
        truth = (at_ticks[recent[-1]] - at_ticks[recent[0]]) / (recent[-1] - recent[0]) / tokens_per_second
        assert per_token == pytest.approx(truth, rel=0.02)
        assert error is not None
        assert abs(per_token / truth - 1) <= error < 0.25


def test_idle_energy_is_counted_and_a_token_that_nobody_writes_costs_nothing() -> None:
    """The total grows; per token there is nothing to say."""
    meter = Meter(None)
    energy = Energy(meter)
    for second in range(200):
        meter.joules[None] += 100.0
        values = found(energy.entities(float(second), [traffic(10.0)]))["m"]
    assert values == (19900.0, None, None)


def test_energy_of_a_runner_is_its_models() -> None:
    """Where each model has processes of its own nothing is shared out."""
    meter = Meter("a", "b", error_ratio=0.1)
    energy = Energy(meter)
    for second in range(0, 60, 2):
        meter.joules["a"] += 200.0
        meter.joules["b"] += 20.0
        models = [traffic(100.0 * second, "a"), traffic(10.0 * second, "b")]
        values = found(energy.entities(float(second), models))
    assert values["a"][:2] == (pytest.approx(200.0 * 29), pytest.approx(1.0))
    assert values["b"][:2] == (pytest.approx(20.0 * 29), pytest.approx(1.0))
    assert values["a"][2] == pytest.approx(0.1 + 4 / 56, rel=0.1)


def test_models_that_share_processes_share_their_energy_and_it_adds_up() -> None:
    """By the tokens of late; that is an assumption, and the error says so."""
    meter = Meter(None)
    energy = Energy(meter)
    for second in range(0, 120, 2):
        meter.joules[None] += 300.0
        values = found(energy.entities(float(second), [traffic(90.0 * second, "a"), traffic(10.0 * second, "b")]))
    (a, _, error_a), (b, _, error_b) = values["a"], values["b"]
    assert a is not None
    assert b is not None
    assert a + b == pytest.approx(300.0 * 59)
    assert a / b == pytest.approx(9.0, rel=0.05)
    assert error_a == error_b == 1.0


def test_a_server_that_begins_anew_costs_no_sense() -> None:
    """Counters that fall start from their zero; no value is negative."""
    meter = Meter(None)
    energy = Energy(meter)
    for second in range(0, 240, 2):
        if second == 120:
            meter.joules[None] = 0.0
        meter.joules[None] += 100.0
        tokens = 50.0 * (second % 120)
        total, per_token, _ = found(energy.entities(float(second), [traffic(tokens)]))["m"]
        assert per_token is None or per_token == pytest.approx(1.0, rel=0.2)
    assert total == pytest.approx(100.0 * 119)


def test_energy_without_tokens_is_told_for_the_server() -> None:
    """A server whose tokens nobody counts still uses energy, of a model without a name."""
    meter = Meter(None)
    energy = Energy(meter)
    energy.entities(0.0, [])
    meter.joules[None] += 7.0
    assert found(energy.entities(2.0, [])) == {"": (7.0, None, None)}

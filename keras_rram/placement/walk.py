"""Runs many placements through a network at once, sharing all that they have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_rram.faults import Fault
from keras_rram.placement.stages import Stage, StagedNetwork, State

Placement = frozenset[str]
"""Names of the layers that are on faulty hardware."""
Normalize = Callable[[int, Placement, Sequence[State]], None]


def walk(
    network: StagedNetwork,
    states: Sequence[State],
    faults: Sequence[Mapping[str, Fault]],
    placements: Iterable[Placement],
    done: Callable[[Placement, Sequence[State]], None],
    normalize: Normalize | None = None,
    calibration: int = 0,
) -> None:
    """Computes the outputs of every placement.

    Placements are a tree: two of them part at the first layer that only one has on faulty
    hardware, and everything before is computed once for both. All layers alone and all but each,
    of a network of n layers, take n networks so, where one by one they take 2 n.

    Args:
        network: the network, in use.
        states: what goes in, for each of several chips.
        faults: kernel name -> fault of each of these chips.
        placements: what is on faulty hardware.
        done: called with each placement and the chips' states behind the last stage.
        normalize: called before each stage that begins with a layer with statistics, with its
            number, what is faulty in front of it, and the chips' states there.
        calibration: see `Stage.run`.
    """

    def advance(stage: Stage, states: Sequence[State], chosen: Placement) -> list[State]:
        found = []
        for state, chip in zip(states, faults, strict=True):
            stage.program({k: f for k, f in chip.items() if k.rpartition("/")[0] in chosen})
            found.append(stage.run(state, calibration))
        return found

    def descend(
        number: int, states: Sequence[State], group: list[Placement], front: Placement
    ) -> None:
        for place in range(number, len(network.stages)):
            stage = network.stages[place]
            if normalize is not None and stage.normalization is not None:
                normalize(place, front, states)
            branches: dict[Placement, list[Placement]] = {}
            for placement in group:
                branches.setdefault(placement & frozenset(stage.faulty), []).append(placement)
            # The largest branch goes on here, so that few states are held at a time.
            *others, (chosen, group) = sorted(branches.items(), key=lambda item: len(item[1]))
            for chosen_there, part in others:
                there = advance(stage, states, chosen_there)
                descend(place + 1, there, part, front | chosen_there)
            states = advance(stage, states, chosen)
            front = front | chosen
        done(group[0], states)

    unique = list(dict.fromkeys(placements))
    if unique:
        descend(0, list(states), unique, frozenset())

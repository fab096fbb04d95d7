"""`--fault_model`: what is wrong with the cells of a chip, as text."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, number_flags

flags.disclaim_key_flags()

HELP = (
    "What is wrong with the cells of a chip, NAME:KEY=VALUE,KEY=VALUE; several on one chip are "
    "joined by '+' (or '&', on the same cells), and then each says its own rate. A rate that "
    "another flag gives is the mean share of faulty cells, to which the model is scaled. Names and "
    "keys: --help_faults."
)


@cli.section("faults")
def define(otherwise: str | None = None, several: str | None = None) -> None:
    """Defines `--fault_model` and `--help_faults` for the tool that calls it, and more.

    Args:
        otherwise: the fault rate where nothing says one, for a tool with `--fault_rate`.
        several: the fault models of a tool that takes several.
    """
    if several is None:
        flags.DEFINE_string("fault_model", "stuck_at_zero", HELP)
    else:
        several = f"One to compare; repeat the flag. Default: {several}. {HELP}"
        flags.DEFINE_multi_string("fault_model", None, several)
    flags.DEFINE_bool("help_faults", False, "Print the fault models with their keys, and end.")
    if otherwise is not None:
        rate = f"Fault rate in [0, 1). Default: that of --fault_model, or else {otherwise}."
        number_flags.define("fault_rate", None, rate, "[0, 1)")


@cli.section("chips")
def define_chips(count: int, least: int = 1) -> None:
    """Defines `--chips`, `--first_chip` and `--seed` of a population."""
    most = f"[{least}, {number_flags.MOST_CHIPS}]"
    number_flags.define_whole("chips", count, "Chips of the population.", most)
    number_flags.define_whole("first_chip", 0, "Index of the first chip.", "[0, 4000000000]")
    number_flags.define_whole("seed", 0, "Seed of the population of chips.", number_flags.SEEDS)


def print_help() -> None:
    """Prints the grammar, names, keys and defaults of the fault models and of `--array`."""
    from keras_rram.faults import grammar, text
    from keras_rram.faults.cells import MAPPINGS
    from keras_rram.hardware.arrays import Analog

    print((text.__doc__ or "").strip())
    print("\nFault models and the defaults of their keys:")
    for name in text.NAMES:
        print(f"  {name}: {text.describe(name)}")
    print(
        f"mapping= is {', '.join(MAPPINGS)}, and where whole weights may fail none; stuck= is off, "
        "on or open; conductances are in siemens, several values as 0/2e-6/8e-5.\nExamples:"
    )
    for example in (
        "row_faults",
        "differential_pair:stuck_off=0.0904,stuck_on=0.0175",
        "stuck_at_zero:rate=0.1+lognormal_variation:sigma=0.1",
    ):
        print(f"  --fault_model={example}")
    print(f"\nKeys of --array: {grammar.keys_of(Analog, {})}")


def given(otherwise: float | None = None, rates: Sequence[float] | None = None) -> Any:
    """Returns the fault model of `--fault_model`; see `parse`."""
    return parse(flags.FLAGS.fault_model, otherwise, rates)


def parse(text: str, otherwise: float | None = None, rates: Sequence[float] | None = None) -> Any:
    """Returns the fault model of a `--fault_model`, as its text says it.

    Args:
        text: the flag.
        otherwise: fault rate of a model whose text says none; None: another flag must say it.
        rates: fault rates, from other flags, that it will be used at; checked here, before
            anything is loaded. `keras_rram.faults.at_rate` makes the models.

    Raises:
        ValueError: if the text is not understood, if it names no fault, or if the model has no rate
            and `rates` are given.
    """
    from keras_rram import faults

    try:
        try:
            model = faults.parse(text)
        except ValueError:
            model = faults.parse(text, otherwise)
        for part in getattr(model, "models", (model,)):
            if isinstance(part, faults.StuckCells) and not part.rate:
                raise ValueError(
                    "expected stuck cells. Received: a model without any (give it shares, as in "
                    "differential_pair:stuck_off=0.02,stuck_on=0.01)"
                )
        for rate in rates or ():
            faults.at_rate(model, rate)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--fault_model='{text}': {error}") from None
    return model


def at(rate: float | None, otherwise: float | None = None) -> Any:
    """Returns the fault model of `--fault_model` at one rate, or at its own; see `parse`."""
    from keras_rram.faults import at_rate

    model = given(otherwise if rate is None else rate, None if rate is None else [rate])
    return model if rate is None else at_rate(model, rate)


def label(model: Any) -> str:
    """Returns the faults of chips in words, for figures and messages."""
    from keras_rram.faults import StuckAtZero, spec

    if isinstance(model, StuckAtZero):
        return f"{100 * model.rate:.3g}% of weights faulty"
    names = "+".join(part.partition(":")[0] for part in spec(model).split("+"))
    return f"{names}, {100 * model.rate:.3g}% faulty" if model.rate else names

"""Flags that mean nothing: each is answered at once, by name, before anything is written."""

import time

import pytest
from absl import flags

from tests.run_tools import load_tool
from tools import COMMANDS, cli
from tools.number_flags import _Number

MOST_SECONDS = 2.0
DIGITS = "9" * 20
ALWAYS = ("nan", "inf", "-inf", "x", "", "1e999", "0x10", "1,2")
SHARE, BELOW_ONE = ("-0.01", "1.01"), ("-0.01", "1", "1.0")
COUNT = ("0", "-1", "1.5", DIGITS, f"-{DIGITS}", "2e0")
COUNT_OR_NONE = ("-1", "0.5", DIGITS, "1e3")

# Flag -> what it must not be, beside ALWAYS; and in the next table what it may be just yet.
BAD = {
    "arena": (*COUNT, "2147483648"),
    "bits": (*COUNT, "17"),
    "estimate_chips": COUNT,
    "estimate_images": COUNT_OR_NONE,
    "gathering_chips": COUNT,
    "images_per_chip": COUNT_OR_NONE,
    "max_difference": ("-1e-9",),
    "most_loss": SHARE,
    "report_points": COUNT,
    "required": (),
    "search_chips": (*COUNT, "1"),
    "share": SHARE,
    "trials": COUNT,
    "at_once": (*COUNT, "1001"),
    "batch_size": COUNT,
    "bottlenecks": (*COUNT, "9"),
    "calibration_chips": COUNT_OR_NONE,
    "calibration_images": COUNT,
    "chips": (*COUNT, "1000001"),
    "cross_check": COUNT_OR_NONE,
    "drop_ramp_epochs": COUNT_OR_NONE,
    "drop_rate": BELOW_ONE,
    "epochs": COUNT,
    "fault_rate": BELOW_ONE,
    "first_chip": (*COUNT_OR_NONE, "4294967296"),
    "fresh_every": COUNT,
    "gradient_clip": ("-1",),
    "images": COUNT,
    "jobs": ("0", "-2", "1.5", DIGITS),
    "keep_above": (),
    "learning_rate": ("0", "-0.1"),
    "masks": COUNT,
    "max_accuracy_difference": SHARE,
    "micro_images": COUNT_OR_NONE,
    "min_agreement": SHARE,
    "seed": (*COUNT_OR_NONE, "4294967296"),
    "statistics_epochs": COUNT_OR_NONE,
    "target_half_width": ("0", "0.5", "-0.1"),
    "train_images": COUNT,
    "training_seeds": ("-1", "0.5", DIGITS, "1e3"),
    "validation_chips": COUNT,
    "validation_images": COUNT,
    "width": COUNT,
}
GOOD = {
    "drop_rate": ("0", "0.999"),
    "fault_rate": ("0", "1e-9"),
    "first_chip": ("0", "4000000000"),
    "jobs": ("-1", "1"),
    "keep_above": ("0", "1", "-2.5"),
    "learning_rate": ("1e-12",),
    "min_agreement": ("0", "1.0"),
    "seed": ("0", "4294967295"),
    "target_half_width": ("0.005",),
    "validation_chips": ("1",),
}

# Tool -> flags, and a part of what is said of them, where the flag is no single number.
CASES = [
    *(
        (tool, [f"--{flag}={bad}"], f"--{flag}")
        for tool, flag, bads in (
            ("evaluate", "fault_rates", ("nan", "0.1,nan", "1", "-0.1", "x", "", "0.1,inf")),
            ("evaluate", "yield_at", ("nan", "1.5", "-1", "x", "")),
            ("evaluate", "metric", ("other", "Mean", "math:other", "none_such:other")),
            ("explain", "metric", ("other",)),
            ("compare_faults", "fault_rates", ("nan", "0", "1", "x", "")),
            ("levels", "bits", ("1", "17", "2.5", "nan", "")),
            ("levels", "methods", ("", "other", "uniform,uniform")),
            ("levels", "quantizations", ("", "int4")),
            ("reproduce", "seeds", ("-1", "nan", "4294967296", "x", "", DIGITS)),
            ("reproduce", "panel", ("9Z",)),
            ("reproduce", "method", ("other", "")),
            ("train", "noise", ("nan", "inf", "-0.1", "row_fault", "stuck_at_zero:rate=2")),
            ("train", "fresh_chips", ("row_fault", "row_faults:rate=nan", "row_faults:rate=1")),
            ("train", "recipe", ("other",)),
        )
        for bad in bads
    ),
    *(
        (tool, [f"--fault_model={bad}", *more], "--fault_model")
        for tool, *more in (
            ("train",),
            ("evaluate",),
            ("export_tflite",),
            ("levels",),
            ("quantize",),
            ("channel_shifts", "--models=m.keras", "--layers=a"),
            ("export_models", "--files=m.keras:0.1:int8"),
        )
        for bad in (
            "row_fault",
            "stuck_at_zero:rate=nan",
            "stuck_at_zero:rate=1",
            "differential_pair:stuck_off=0",
            "lognormal_variation:sigma=inf",
            "(" * 2000,
        )
    ),
    ("evaluate", ["--repair=other"], "--repair"),
    ("compare_repairs", ["--repairs=other"], "--repairs=other"),
    ("evaluate", ["--array=adc_bits=nan"], "--array"),
    ("evaluate", ["--array=read_noise=-1"], "--array"),
    ("evaluate", ["--keep_above=0.9"], "--keep_above goes with --chip"),
    *(
        (tool, [f"--keep_above={bad}", "--chip=none.npz"], "--keep_above must be an accuracy in [0")
        for tool in ("evaluate", "export_tflite")
        for bad in SHARE
    ),
    ("evaluate", ["--metric=mse", "--yield_at=nan"], "--yield_at must be numbers in (-inf, inf)"),
    ("evaluate", ["--chip=none.npz", "--chips=3"], "none.npz"),
    ("merge", ["--runs=one"], "--runs must be two"),
    ("merge", ["--runs=a,b", "--yield_at=nan"], "--yield_at must be"),
    ("merge", ["--runs=a,b"], "'a' holds no run"),
    ("compare", ["--runs=one"], "--runs must be two"),
    ("compare_networks", [], "--network: expected two networks"),
    ("variance", [], "--runs is missing"),
    ("inspect_tflite", [], "no file is named"),
    ("inspect_tflite", ["--tflite=a.tflite", "--map=m.npz"], "--map needs --base"),
    ("export_micro", [], "--tflite is missing"),
    ("export_models", [], "--files is missing"),
    ("export_models", ["--files=m.keras:nan:int8"], "--files must be"),
    ("export_models", ["--files=m.keras:1:int8"], "--files must be"),
    ("export_models", ["--files=m.keras:0.1:int4"], "--files must be"),
    ("channel_shifts", [], "--models and --layers"),
    ("program_chips", [], "--maps is missing"),
    ("program_chips", ["--program", "--mapping=other"], "--mapping"),
    ("program_chips", ["--program", "--mapping=differential_pair(g_min=nan)"], "--mapping"),
    ("program_chips", ["--program"], "--program needs --mapping"),
    ("benchmark", [], "--suite is missing"),
    ("benchmark", ["--suite=calls"], "expected KERAS_BACKEND=jax"),
    ("train", ["--fresh_every=2"], "--fresh_every goes with"),
    ("train", ["--width=8"], "--width belongs to"),
    ("train", ["--masks=4", "--drop_rate=0"], "--masks needs"),
    *(
        (tool, ["--model=none.keras", "--images=5"], "no such file")
        for tool in ("evaluate", "export_tflite", "levels", "quantize", "compare_faults")
    ),
    *(
        (tool, ["--model=none.keras"], "no such file")
        for tool in ("explain", "place", "sensitivity")
    ),
]
WITHOUT_OUT = [
    tool
    for tool in COMMANDS.values()
    if tool not in ("benchmark", "inspect_tflite", "reproduce", "merge", "compare", "variance")
    and tool not in ("explain", "report_page", "sensitivity", "place", "search_networks")
]


def answer(name, tool, *arguments):
    """Returns what a tool says of flags, and the seconds of this process that it took.

    Asked twice: the first answer may be the first one to import what it needs.
    """
    for _ in range(2):
        flags.FLAGS.unparse_flags()
        begin = time.process_time()
        with pytest.raises((ValueError, TypeError, OSError, flags.Error)) as error:
            flags.FLAGS([name, *arguments])
            tool.main([name])
        seconds = time.process_time() - begin
        if seconds < MOST_SECONDS:
            break
    return str(error.value), seconds


@pytest.mark.parametrize("name", sorted(COMMANDS.values()))
def test_numbers_that_are_none_or_out_of_range(name):
    load_tool(name)
    defined = {
        flag.name: flag.parser
        for module, found in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith("tools.")
        for flag in found
    }
    plain = (flags.FloatParser, flags.IntegerParser)
    assert not [flag for flag, parser in defined.items() if isinstance(parser, plain)]
    for flag in (flag for flag, parser in defined.items() if isinstance(parser, _Number)):
        for bad in (*ALWAYS, *BAD[flag]):
            flags.FLAGS.unparse_flags()
            begin = time.process_time()
            with pytest.raises(flags.IllegalFlagValueError, match=f"--{flag}={bad}: must be an? "):
                flags.FLAGS([name, f"--{flag}={bad}"])
            assert time.process_time() - begin < MOST_SECONDS
        for good in GOOD.get(flag, ()):
            flags.FLAGS.unparse_flags()
            flags.FLAGS([name, f"--{flag}={good}"])


def test_there_are_enough_cases():
    """And no flag in the tables that no tool has."""
    numbers, names = 0, set()
    for name in COMMANDS.values():
        load_tool(name)
        found = [flag for flag in BAD if flag in flags.FLAGS]
        names |= set(found)
        numbers += sum(len({*ALWAYS, *BAD[flag]}) for flag in found)
    assert names == set(BAD)
    assert numbers + len(CASES) + len(WITHOUT_OUT) >= 200


def test_what_cannot_be_meant_is_said_at_once(tmp_path):
    for name in dict.fromkeys(tool for tool, *_ in CASES):
        tool = load_tool(name)
        for _, arguments, message in (case for case in CASES if case[0] == name):
            out = [f"--out={tmp_path}/run"] if "out" in flags.FLAGS else []
            said, seconds = answer(name, tool, *out, *arguments)
            assert message in said, (name, arguments, said)
            assert len(cli.in_a_line(ValueError(said))) <= 600
            assert seconds < MOST_SECONDS, (name, arguments, seconds)
    assert not list(tmp_path.iterdir())


def test_no_folder_or_one_that_is_in_use(tmp_path):
    (tmp_path / "file").write_text("")
    for name in WITHOUT_OUT:
        tool = load_tool(name)
        for out, message in (
            ("", "--out is missing"),
            (tmp_path / "file", "is a file"),
            (tmp_path, "is not empty"),
        ):
            said, seconds = answer(name, tool, f"--out={out}")
            assert message in said and seconds < MOST_SECONDS, (name, said, seconds)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

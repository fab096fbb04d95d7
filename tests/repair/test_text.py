"""Tests of `keras_rram.repair.text`."""

import numpy as np
import pytest

from keras_rram.repair.text import NAMES, describe, parse
from tests.repair.networks import images


@pytest.mark.parametrize(
    ("text", "count", "tier"),
    [
        ("batch_norm", 512, "B"),
        ("batch_norm:images=64,moments=mean", 64, "B"),
        ("map", 0, "C"),
        ("map:images=32", 32, "C"),
        ("remap:rounds=2,polarity=false", 0, "C"),
        ("remap+least_squares:images=100,ridge=0.5", 100, "C"),
        ("spare_columns:columns=2,tile=64x64+remap+batch_norm:images=8", 8, "C"),
        ("retraining:images=24,steps=5", 24, "C"),
    ],
)
def test_texts_are_read_and_written(text, count, tier):
    plan = parse(text)
    assert (str(plan), plan.images, plan.access_tier) == (text, count, tier)
    assert parse(str(plan)) == plan
    pool = images(512)
    repair = plan.on(pool, np.zeros(512, int))
    assert repair.access_tier == tier
    assert repair.fingerprint.count("+") == text.count("+")


def test_each_part_gets_the_images_that_it_says():
    pool, labels = images(40), np.arange(40)
    joined = parse("batch_norm:images=8+retraining:images=32,steps=7+map").on(pool, labels)
    first, second, third = joined.parts
    np.testing.assert_array_equal(first.images, pool[:8])
    np.testing.assert_array_equal(second.images, pool[:32])
    np.testing.assert_array_equal(second.labels, labels[:32])
    assert second.steps == 7 and third.images is None
    assert first.fingerprint == parse("batch_norm:images=8").on(images(8)).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchnorm", "did you mean 'batch_norm'"),
        ("batch_norm:image=3", "did you mean 'images'"),
        ("batch_norm:images=0", "<HERE>0.*images"),
        ("least_squares:ridge=0.0", "<HERE>0.0.*ridge"),
        ("remap:rounds=-1", "rounds"),
        ("map:moments=none", "moments"),
        ("remap remap", r"expected '\+'"),
    ],
)
def test_errors_show_the_place(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_data_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="512 images"):
        parse("batch_norm").on(images(8))
    with pytest.raises(ValueError, match="labels"):
        parse("retraining:images=8").on(images(8))


def test_every_repair_is_described():
    lines = describe().splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(NAMES)
    assert "batch_norm (tier B): images=512, batch_size=256, moments=both" in lines

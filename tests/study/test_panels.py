import json

import pytest

from keras_rram import faulty_layers
from keras_rram.study.panels import GROUPS, PANELS
from keras_rram.study.setups import build, default_network, fault_model, setup
from tests.run_tools import ROOT

REFERENCE = ROOT.parent / "shared" / "paper" / "reference.json"


def study_panels():
    if not REFERENCE.exists():
        pytest.skip("the study's numbers are not on this machine")
    study = json.loads(REFERENCE.read_text())
    return study["mnist"] | study["cifar10"]


def test_every_panel_of_the_study_has_its_settings():
    for name, said in study_panels().items():
        panel = PANELS["all" if name.startswith("all") else name]
        assert panel.drop_rate == panel.fault_rate == said["drop_rate"]
        assert panel.options.get("bottlenecks") == said.get("bottlenecks")
        assert list(panel.options.get("replaced", ())) == said.get("replaced", [])


def test_every_curve_is_the_one_read_from_the_study():
    for name, said in study_panels().items():
        curve = said.get("curve", {})
        known = curve.get("range") or curve.get("plateau") or curve.get("final")
        if known is None:
            continue
        low, high = known if isinstance(known, list) else (known, known)
        assert PANELS[name].curve == pytest.approx((low / 100, high / 100))


@pytest.mark.parametrize(
    "name", ["2A", "S1A", "4E", "all", "1-resnet20-dropconnect", "1-vgg13-plain"]
)
def test_builds_at_smoke_scale_with_faults_where_the_protocol_says(name):
    panel = PANELS[name]
    for protocol in ("text", "published"):
        model = build(panel, setup(panel, "smoke", protocol), protocol, seed=0)
        layers = faulty_layers(model)
        assert {layer.drop_connect.rate for layer in layers.values()} == {panel.drop_rate}
        assert {layer.drop_connect.rescale for layer in layers.values()} == {
            protocol == "published"
        }
        depthwise_only = all("depthwise" in layer for layer in layers)
        assert depthwise_only == (protocol == "published" and panel.scope == "blocks")
    assert fault_model(panel).rate == panel.fault_rate


def test_paper_scale_is_the_studys_recipe_and_network():
    panel = PANELS["2B"]
    how = setup(panel, "paper", "published")
    assert default_network(panel, "paper") == "published"
    assert (how.recipe.epochs, how.recipe.batch_size, how.recipe.learning_rate) == (20, 256, 1e-3)
    assert how.options["variant"] == "published" and how.options["broadcast_shortcut"]
    assert setup(PANELS["4C"], "paper").recipe.epochs == 200


@pytest.mark.parametrize("scale", ["short", "long"])
def test_all_panels_of_cifar10_train_alike(scale):
    recipes = [setup(panel, scale).recipe for panel in PANELS.values() if panel.dataset != "mnist"]
    assert len(recipes) >= 13 and len(set(recipes)) == 1
    assert recipes[0].epochs == {"short": 20, "long": 80}[scale]


def test_groups_name_panels_once():
    assert set(GROUPS["all_panels"]) == set(PANELS)
    assert len(GROUPS["mnist"]) == 11 and len(GROUPS["cifar10"]) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("big", "text", None), "`scale` must be one of"),
        (("short", "code", None), "`protocol` must be one of"),
        (("short", "text", "resnet20"), "Panel 2B can be run with"),
    ],
)
def test_refuses_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        setup(PANELS["2B"], *arguments)

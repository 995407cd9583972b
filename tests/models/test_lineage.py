import pytest
import torch

import models
import prune
import prune.border
from common.errors import UserError
from distill.pairs import pairs_on_lineage
from tests.alive import alive
from tests.nets import TINY


@pytest.fixture
def net() -> models.Network:
    return models.Network(models.parse_cfg(TINY["csp"]))


def test_training_on_keeps_every_channel_where_it_is(net):
    (entry,) = models.descend(net, "baseline", models.identity_step(net))
    assert entry == models.identity_lineage(net, "baseline")
    assert entry["sha256"] == models.fingerprint(net)
    assert entry["parameters"] == models.parameters(net)
    assert entry["layers"]["0"] == {"layer": 0, "kept": list(range(8))}
    assert set(entry["layers"]) == {str(number) for number in net.convolutions}


def test_two_rounds_of_pruning_compose_to_the_first_ancestors_channels():
    first = [{"sha256": "base", "kind": "baseline", "layers": {"5": {"layer": 9, "kept": [1, 4, 6, 7]}}}]
    second = models.compose(first, {3: (5, [0, 2, 3])})
    assert second == [{"sha256": "base", "kind": "baseline", "layers": {"3": {"layer": 9, "kept": [1, 6, 7]}}}]
    assert first[0]["layers"] == {"5": {"layer": 9, "kept": [1, 4, 6, 7]}}


def test_a_layer_the_ancestor_does_not_know_has_no_row():
    first = [{"sha256": "base", "kind": "baseline", "layers": {"5": {"layer": 9, "kept": [0]}}}]
    assert models.compose(first, {3: (5, [0]), 4: (6, [0])})[0]["layers"].keys() == {"3"}


def test_the_youngest_ancestor_stands_last_and_kept_channels_find_each(net):
    net.lineage = [{"sha256": "base", "kind": "baseline", "layers": {"0": {"layer": 2, "kept": list(range(10, 18))}}}]
    lineage = models.descend(net, "sparse", {1: (0, [3, 5])})
    assert [entry["kind"] for entry in lineage] == ["baseline", "sparse"]
    assert models.kept_channels(lineage, models.fingerprint(net), 1) == (0, [3, 5])
    assert models.kept_channels(lineage, "base", 1) == (2, [13, 15])


def test_a_stranger_is_refused_by_name(net):
    with pytest.raises(UserError, match="no ancestor") as caught:
        models.kept_channels(models.descend(net, "baseline", models.identity_step(net)), "f" * 64, 0)
    assert "baseline" in str(caught.value)


def test_an_ancestor_is_known_by_what_an_earlier_version_called_it(net):
    lineage = models.descend(net, "baseline", models.identity_step(net))
    assert models.known_as(lineage, net) == models.fingerprint(net) == lineage[0]["sha256"]
    earlier = [{**lineage[0], "sha256": models.full_digest(net)}]
    assert models.known_as(earlier, net) == models.full_digest(net) != models.fingerprint(net)
    assert models.kept_channels(earlier, models.known_as(earlier, net), 0) == (0, list(range(8)))
    stranger = models.Network(models.parse_cfg(TINY["gated"]))
    assert models.known_as(earlier, stranger) == models.fingerprint(stranger)


def test_students_of_earlier_versions_are_still_paired_and_solved(net):
    alive(net)
    thin = prune.channels(net, ratio=0.3, size=(64, 64)).network
    thin.lineage = [{**entry, "sha256": models.full_digest(net)} for entry in thin.lineage]
    assert pairs_on_lineage(thin, net, layers="all")
    prune.border.gammas_at_zero(net, thin)
    prune.reconstruct(thin, net, torch.rand(2, 3, 64, 64))

"""The teacher: what it must never change, and with whom it can work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from common.errors import UserError
from common.log import log
from distill.teacher import Teacher, align, split_chain
from models.heads import AnchoredSpec
from models.network import Network
from tests.distill.material import COARSE, FINE, tiny_network

pytestmark = pytest.mark.usefixtures("fp32_teachers")


def test_teacher_runs_in_eval_mode_without_gradients_even_if_somebody_trained_it() -> None:
    teacher = Teacher(tiny_network(16), tiny_network(8))
    before = teacher.full_digest
    images = torch.rand(2, 3, 64, 64)
    quiet = teacher(images)
    teacher.network.train()
    outputs = teacher(images)
    assert not any(head.requires_grad for head in outputs.heads)
    assert all(torch.equal(one, other) for one, other in zip(quiet.heads, outputs.heads))
    assert teacher.full_digest == before


def test_heads_are_paired_by_stride_and_anchors_by_size() -> None:
    student = (AnchoredSpec(FINE, 8, 3), AnchoredSpec(COARSE, 16, 3))
    teacher = (AnchoredSpec(COARSE[::-1], 16, 3), AnchoredSpec(FINE, 8, 3))
    found = align(student, teacher)
    assert found.heads == (1, 0)
    assert found.places == ((0, 1), (1, 0))
    assert found.same_places


def test_answers_come_in_the_students_order() -> None:
    student, network = tiny_network(8), tiny_network(16)
    anchors = [list(spec.anchors) for spec in network.specs]
    images = torch.rand(1, 3, 64, 64)
    straight = Teacher(network, student)(images)
    with torch.no_grad():
        plain = network(images)
    network.with_anchors([anchors[0][::-1], anchors[1]])
    swapped = Teacher(network, student)(images)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(straight.heads, plain))
    assert torch.equal(swapped.heads[0], straight.heads[0].flip(1))
    assert swapped.specs == straight.specs


@pytest.mark.parametrize(
    ("teacher", "named"),
    [
        ((AnchoredSpec(FINE, 8, 3),), "1 heads of strides 8 with 2 anchors and 3 classes"),
        ((AnchoredSpec(FINE, 8, 3), AnchoredSpec(COARSE, 32, 3)), "strides 8, 32"),
        ((AnchoredSpec(FINE, 8, 80), AnchoredSpec(COARSE, 16, 80)), "80 classes"),
        ((AnchoredSpec(FINE, 8, 3), AnchoredSpec(COARSE[:1], 16, 3)), "2, 1 anchors"),
    ],
    ids=["heads", "strides", "classes", "anchors"],
)
def test_heads_that_disagree_are_refused_naming_both_sides(teacher: tuple[AnchoredSpec, ...], named: str) -> None:
    student = (AnchoredSpec(FINE, 8, 3), AnchoredSpec(COARSE, 16, 3))
    with pytest.raises(UserError) as error:
        align(student, teacher)
    assert "the student has 2 heads of strides 8, 16 with 2, 2 anchors and 3 classes" in str(error.value)
    assert named in str(error.value).split("the teacher has")[1]


def test_other_anchors_are_noticed() -> None:
    student = (AnchoredSpec(FINE, 8, 3),)
    assert not align(student, (AnchoredSpec(((8.0, 10.0), (16.0, 14.0)), 8, 3),)).same_places
    assert align(student, (AnchoredSpec(((8.1, 10.0), (16.0, 12.2)), 8, 3),)).same_places


def test_classes_are_taken_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """A teacher of three classes in another order teaches the two of the student, and is scored on those."""
    student, network = tiny_network(8), tiny_network(16, classes=3)
    student.names, network.names = ["cat", "dog"], ["dog", "wolf", "Cat"]
    teacher, images = Teacher(network, student), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = network(images)
    for ours, theirs in zip(teacher(images).heads, plain):
        assert torch.allclose(ours, theirs[..., [0, 1, 2, 3, 4, 7, 5]], atol=1e-6)
    assert [spec.classes for spec in teacher.specs] == [2, 2]
    assert (teacher.network.classes, teacher.network.names) == (2, ["cat", "dog"])
    decoded = teacher.network.decode(teacher.network(images))  # type: ignore[operator]
    assert decoded.shape == (1, 2 * (64 + 16), 7)


def test_classes_the_teacher_lacks_are_refused_and_other_words_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = tiny_network(8), tiny_network(16)
    student.names = ["cat", "dog"]
    for names in (["dog", "wolf"], ["cat", "dog", "wolf"][1:] + ["cow"]):
        teacher = tiny_network(16, classes=len(names))
        teacher.names = names
        with pytest.raises(UserError, match=f"cat, dog and {', '.join(names)}"):
            Teacher(teacher, student)
    teacher = tiny_network(16)
    teacher.names = ["kitten", "puppy"]
    log.addHandler(caplog.handler)  # the project's log does not propagate once an entry point shows it
    try:
        Teacher(teacher, student)
    finally:
        log.removeHandler(caplog.handler)
    assert "kitten, puppy" in caplog.text


def test_numbers_are_no_names() -> None:
    """A cfg knows no names: its classes are those of the student, in order, if they are as many."""
    student = tiny_network(8)
    student.names = ["cat", "dog"]
    assert Teacher(tiny_network(16), student).alignment.classes is None
    with pytest.raises(UserError, match=r"2 classes; the teacher has .* 3 classes"):
        Teacher(tiny_network(16, classes=3), student)


def test_teacher_with_further_heads_and_anchors_is_matched_where_it_can_be() -> None:
    student = (AnchoredSpec(COARSE, 16, 3),)
    found = align(student, (AnchoredSpec(FINE, 8, 3), AnchoredSpec((FINE[0], COARSE[1], COARSE[0]), 16, 3)))
    assert (found.heads, found.places, found.same_places) == ((1,), ((2, 1),), True)


def test_anchors_are_paired_one_to_one_the_nearest_first() -> None:
    student = (AnchoredSpec(((10.0, 10.0), (12.0, 12.0)), 8, 3),)
    teacher = (AnchoredSpec(((12.5, 12.5), (60.0, 60.0)), 8, 3),)
    assert align(student, teacher).places == ((1, 0),), "the second is nearer to the first"


def averaged(first: Network, second: Network, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [torch.stack(pair) for pair in zip(first(images), second(images))]


def test_several_teachers_give_the_mean_of_their_probabilities() -> None:
    student, one, two = tiny_network(8), tiny_network(16, seed=1), tiny_network(24, seed=2)
    teacher, images = Teacher([one, two], student), torch.rand(2, 3, 64, 64)
    for head, both in zip(teacher(images).heads, averaged(one, two, images)):
        assert torch.allclose(head[..., 4:].sigmoid(), both[..., 4:].sigmoid().mean(0), atol=1e-6)
        assert torch.allclose(head[..., :4], both[..., :4].mean(0), atol=1e-6)
    assert teacher.full_digest == f"{models.full_digest(one)}+{models.full_digest(two)}"
    same = Teacher([one, one], student)(images)
    for head, alone in zip(same.heads, Teacher(one, student)(images).heads):
        assert torch.allclose(head, alone, atol=1e-4)


def test_average_of_saturated_scores_is_finite() -> None:
    student, sure, unsure = tiny_network(8), tiny_network(16, seed=1), tiny_network(16, seed=2)
    for network, bias in ((sure, 300.0), (unsure, -300.0)):
        for number in network.head_convolutions:
            torch.nn.init.constant_(network.convolutions[number].conv.bias, bias)
    for head in Teacher([sure, unsure], student)(torch.rand(1, 3, 64, 64)).heads:
        assert head[..., 4:].isfinite().all()
        assert torch.allclose(head[..., 4:].sigmoid(), torch.tensor(0.5), atol=1e-6)


def test_average_of_softmax_heads_is_the_mean_distribution() -> None:
    spec = AnchoredSpec(FINE, 8, 3, softmax=True)
    heads = [torch.randn(1, 2, 3, 4, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    found = spec.average(heads)
    expected = torch.stack([head[..., 5:].softmax(-1) for head in heads]).mean(0)
    assert torch.allclose(found[..., 5:].softmax(-1), expected, atol=1e-6)
    assert torch.allclose(found[..., 4].sigmoid(), torch.stack([h[..., 4].sigmoid() for h in heads]).mean(0), atol=1e-6)


def test_teachers_that_decode_differently_are_not_averaged() -> None:
    with pytest.raises(UserError, match=r"(?s)scale_x_y 1.*scale_x_y 2.*a.pt,b.pt"):
        Teacher([tiny_network(16), tiny_network(16, new_coords=True)], tiny_network(8))


def test_features_come_by_the_teachers_layer_numbers() -> None:
    network = tiny_network(16)
    teacher, images = Teacher(network, tiny_network(8)), torch.rand(1, 3, 64, 64)
    outputs = teacher(images, (1, 0))
    with torch.no_grad():
        _, features = network.forward_features(images, (0, 1))
    assert outputs.features.keys() == {0, 1}
    assert all(torch.allclose(outputs.features[layer], features[layer], atol=1e-6) for layer in features)
    assert teacher(images).features == {}


def test_folded_copy_answers_as_the_network_with_trained_statistics() -> None:
    network = tiny_network(16)
    network.train()
    for _ in range(5):
        network(torch.rand(4, 3, 64, 64) * 3)
    for layer in network.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.uniform_(layer.bn.weight, -1, 1)
            torch.nn.init.uniform_(layer.bn.bias, -1, 1)
    teacher, images = Teacher(network, tiny_network(8)), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    for found, head in zip(teacher(images).heads, expected):
        assert (found - head).abs().max() < 1e-5 * head.abs().max()
    assert any(layer.bn is not None for layer in network.convolutions.values()), "the network itself stays whole"


@pytest.mark.parametrize(
    ("cfg", "weights", "links"),
    [
        ("", "a.pt", [("", "a.pt")]),
        ("", "a.pt,b.pt", [("", "a.pt"), ("", "b.pt")]),
        ("a.cfg,b.cfg", "a.weights,", [("a.cfg", "a.weights"), ("b.cfg", "")]),
        ("", "a.pt+b.pt", [("", "a.pt+b.pt")]),
        ("x.cfg", "a.pt,b.pt", [("x.cfg", "a.pt"), ("x.cfg", "b.pt")]),
    ],
)
def test_comma_is_a_chain_and_plus_an_average(cfg: str, weights: str, links: list[tuple[str, str]]) -> None:
    assert split_chain(cfg, weights) == links


def test_chain_of_unequal_lists_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 links.*3"):
        split_chain("a.cfg,b.cfg", "a.pt,b.pt,c.pt")


def test_average_is_loaded_from_two_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b+c", 2)):
        models.save(tiny_network(16, seed=seed), tmp_path / f"{name}.pt")
    student = tiny_network(8)
    one = Teacher.load("", tmp_path / "b+c.pt", student)
    assert len(one.members) == 1, "a file's own name may hold a plus"
    (tmp_path / "b+c.pt").rename(tmp_path / "b.pt")
    both = Teacher.load("", f"{tmp_path / 'a.pt'}+{tmp_path / 'b.pt'}", student)
    assert [models.full_digest(member) for member in both.members] == [
        models.full_digest(tiny_network(16, seed=seed)) for seed in (1, 2)
    ]


def test_weights_that_do_not_fill_the_teacher_are_refused(tmp_path: Path) -> None:
    fat, thin = tiny_network(16), tiny_network(8)
    models.save(fat, tmp_path / "fat.pt")
    models.save(thin, tmp_path / "thin.pt")
    (tmp_path / "fat.cfg").write_text(fat.cfg.text())
    assert Teacher.load(tmp_path / "fat.cfg", tmp_path / "fat.pt", thin).full_digest == models.full_digest(fat)
    assert Teacher.load("", tmp_path / "fat.pt", thin).full_digest == models.full_digest(fat)
    with pytest.raises(UserError):
        Teacher.load(tmp_path / "fat.cfg", tmp_path / "thin.pt", thin)
    with pytest.raises(UserError, match="needs trained weights"):
        Teacher.load(tmp_path / "fat.cfg", None, thin)


def test_a_teacher_answers_in_bf16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, images = Teacher(tiny_network(16), tiny_network(8)), torch.rand(1, 3, 64, 64)
    plain = teacher(images)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    fast = teacher(images)
    assert {head.dtype for head in plain.heads} == {torch.float32}
    assert {head.dtype for head in fast.heads} == {torch.bfloat16}
    for one, other in zip(plain.heads, fast.heads):
        torch.testing.assert_close(one, other.float(), rtol=0.1, atol=0.02)


def test_each_picture_is_taught_by_the_network_that_has_not_seen_it() -> None:
    """Whatever is of no fold is taught by the average."""
    student, one, two = tiny_network(8), tiny_network(16, seed=1), tiny_network(16, seed=2)
    teacher = Teacher([one, two], student, folds=torch.tensor([0, 1, 0]))
    images = torch.rand(4, 3, 64, 64)
    found = teacher(images, (), torch.tensor([1, 2, -1, 0])).heads
    first, second = (Teacher(each, student)(images).heads for each in (one, two))
    for head, ours, theirs, mean in zip(found, first, second, Teacher([one, two], student)(images).heads):
        assert torch.allclose(head[0], theirs[0], atol=1e-6)
        assert torch.allclose(head[[1, 3]], ours[[1, 3]], atol=1e-6)
        assert torch.allclose(head[2], mean[2], atol=1e-6)
        assert not torch.allclose(head[0], ours[0], atol=1e-3)

"""The judge's network: shapes, what may depend on what, and files."""

from pathlib import Path

import pytest
import torch

from data.world.judge import FILE, WINDOW, Judge
from data.world.labels import OBJECT_WORDS, SCENE_WORDS


@pytest.fixture(scope="module")
def judge() -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judge(width=16, deep_width=32, depth=1).eval()


def frames(b: int, t: int, h: int, w: int) -> torch.Tensor:
    return torch.rand(b, 3, t, h, w, generator=torch.Generator().manual_seed(t)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize(("t", "h", "w"), [(WINDOW, 32, 32), (17, 24, 40), (2, 40, 24), (6, 16, 16)])
def test_any_size_and_duration_up_to_a_window(judge: Judge, t: int, h: int, w: int) -> None:
    seen = judge.encode(frames(2, t, h, w))
    steps = (t + 1) // 2
    assert seen.maps.shape == (2, steps, h // 4, w // 4, 16) and seen.overview.shape == (2, steps, 32)
    assert seen.points.shape == (2, h // 2, w // 2) and seen.slope_products.shape == (2, steps, 10, h // 4, w // 4)
    assert seen.frames.shape == (2, 3, 2 * steps, h, w) and torch.equal(seen.frames[:, :, t - 1], seen.frames[:, :, -1])
    found = judge(seen, torch.rand(2, 3, 2), torch.ones(2, 3, dtype=torch.bool), t)
    assert found.view.shape == (2, t, 3) and found.paths.shape == (2, 3, t, 4)
    assert found.centres.shape == (2, 3, t, 2) and found.depths.shape == (2, 3, t)
    assert all(found.objects[name].shape == (2, 3, len(words)) for name, words in OBJECT_WORDS.items())
    assert all(found.scene[name].shape == (2, len(words)) for name, words in SCENE_WORDS.items())
    assert all(match.shape == (2, 3, steps, h * w // 16) for match in found.matches)


@torch.no_grad()
def test_clips_do_not_mix_and_objects_only_with_those_that_are_there(judge: Judge) -> None:
    clip, starts = frames(3, 9, 24, 24), torch.rand(3, 4, 2)
    only = torch.tensor([[True] * 4, [False, False, True, False], [True] * 4])
    whole = judge(judge.encode(clip), starts, only, 9)
    alone = judge(judge.encode(clip[1:2]), starts[1:2, 2:3], torch.tensor([[True]]), 9)
    torch.testing.assert_close(whole.centres[1:2, 2:3], alone.centres, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.objects["motion"][1:2, 2:3], alone.objects["motion"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.features[1:2, [2, 4]], alone.features, atol=1e-5, rtol=1e-4)
    together = judge(judge.encode(clip), starts, torch.ones_like(only), 9)
    assert (together.objects["motion"][1, 2] - whole.objects["motion"][1, 2]).abs().max() > 1e-6


@torch.no_grad()
def test_a_clip_without_objects_has_a_view(judge: Judge) -> None:
    found = judge(judge.encode(frames(2, 9, 24, 24)), torch.rand(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool), 9)
    assert found.scene["camera"].isfinite().all() and found.features[:, -1].isfinite().all()


@torch.no_grad()
def test_steps_see_their_neighbours_and_what_is_said_sees_all_steps(judge: Judge) -> None:
    clip = frames(1, 17, 16, 16)
    changed = clip.clone()
    changed[:, :, -1] += 0.5
    one, two = judge.encode(clip), judge.encode(changed)
    differs = (one.maps - two.maps).abs().amax((0, 2, 3, 4)) > 1e-7  # by step
    reach = 4  # of the last step's change, in steps: the flow and three blocks, each of which looks one step ahead
    assert differs[-1 - reach :].all() and not differs[: -1 - reach].any()
    starts = torch.full((1, 1, 2), 0.5)
    said = [judge(part, starts, torch.tensor([[True]]), 17).objects["motion"] for part in (one, two)]
    assert (said[0] - said[1]).abs().max() > 1e-6


def test_files_hold_the_network_in_16_bits(judge: Judge, tmp_path: Path) -> None:
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    assert again.settings == judge.settings and not again.training
    for (name, one), two in zip(judge.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one.float(), two.float(), atol=1e-5, rtol=1e-3, msg=name)
    size = sum(p.numel() for p in judge.parameters())
    assert 2 * size < (tmp_path / FILE).stat().st_size < 2.2 * size + 20_000


def test_a_missing_or_damaged_file_is_one_clear_line(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no judge.*train_judge\.py"):
        Judge.load(tmp_path)
    judge.save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    deeper = whole.replace(b'"depth":"1"', b'"depth":"2"')
    assert deeper != whole
    for part in (
        whole[: len(whole) // 2],
        deeper,
        b"no file",
    ):
        (tmp_path / FILE).write_bytes(part)
        with pytest.raises(ValueError, match="damaged, or of another version") as error:
            Judge.load(tmp_path)
        assert "\n" not in str(error.value)


def test_it_learns_where_a_square_goes() -> None:
    """Overfit two clips of a bright square: centres are found to a hundredth of the picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge(width=16, deep_width=32, depth=1)
    t = 9
    clip = torch.full((2, 3, t, 32, 32), -0.5)
    centres = torch.zeros(2, 1, t, 2)
    for i in range(t):
        for b, (x, y) in enumerate(((6 + 2 * i, 10), (20, 24 - 2 * i))):
            clip[b, 0, i, y - 3 : y + 3, x - 3 : x + 3] = 1.0
            centres[b, 0, i] = torch.tensor([x, y]) / 32
    there = torch.ones(2, 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    for _ in range(150):
        found = judge(judge.encode(clip), centres[:, :, 0], there, t)
        loss = (found.centres - centres).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((found.centres.detach() - centres).norm(dim=-1).mean()) < 0.01

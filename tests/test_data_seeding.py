"""Keyed random streams."""

import torch

from data.seeding import draw_integer, keyed_generator


def test_a_key_gives_one_stream() -> None:
    first, again = keyed_generator(0, 7, "noise"), keyed_generator(0, 7, "noise")
    assert torch.equal(torch.randn(50, generator=first), torch.randn(50, generator=again))


def test_keys_that_look_alike_give_other_streams() -> None:
    keys = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("1, 23",), (1, 23, ""), (23, 1), (-1, 23), ()]
    seeds = {keyed_generator(*key).initial_seed() for key in keys}
    assert len(seeds) == len(keys)


def test_seeds_of_many_steps_do_not_collide_and_fill_the_range() -> None:
    seeds = torch.tensor([keyed_generator(0, step, "levels").initial_seed() for step in range(2000)])
    assert seeds.unique().numel() == 2000
    assert seeds.min() >= 0
    assert abs((seeds.double() / 2**63).mean() - 0.5) < 0.03


def test_the_hash_is_the_same_in_every_process_and_version() -> None:
    """Python's own hash() is salted; a run must resume with the streams it began with."""
    assert keyed_generator(0, "noise").initial_seed() == 3036726077145644715


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = torch.rand(4, generator=keyed_generator("a"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(4, generator=keyed_generator("a")), first)


def test_integers_are_uniform_below_high() -> None:
    generator = keyed_generator("integers")
    counts = torch.bincount(torch.tensor([draw_integer(5, generator) for _ in range(2000)]), minlength=5)
    assert counts.numel() == 5
    assert counts.min() > 300
    assert draw_integer(1, generator) == 0
    assert isinstance(draw_integer(3, generator), int)

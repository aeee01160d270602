"""kill -9 at any moment: the run goes on without help and ends with the very bits of the one nobody disturbed."""

import pytest

from tests.faults.driver import Life
from tests.faults.inject import PHASES
from tests.faults.nursery import digest, saved
from tests.faults.punish import punish

SEED = 1


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.stress)])
def test_kills_at_random_moments_and_phases_of_a_save_lose_nothing(nursery, straight, tmp_path, kills):
    root, wanted = straight(steps=24)
    punished = punish(nursery, tmp_path, root, kills, SEED)
    print(
        f"\n{sum(punished.kills.values())} kills in {punished.seconds:.0f} s, seed {SEED}: {dict(punished.kills)}; "
        f"{len(punished.digests)} runs finished, {punished.digests.count(wanted)} with the undisturbed digest"
    )
    assert set(punished.digests) == {wanted}


@pytest.mark.stress
@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_in_a_phase_of_a_save_costs_one_interval_at_most(nursery, straight, fresh, tmp_path, phase):
    _, wanted = straight(steps=24)
    root = fresh()
    life = dict(root=str(root), log=str(tmp_path / "log"), steps=24)
    assert nursery.run(Life(**life, faults=((0, 8, phase),))) == -9
    assert max(saved(root)) >= 6
    assert nursery.run(Life(**life)) == 0
    assert digest(root) == wanted

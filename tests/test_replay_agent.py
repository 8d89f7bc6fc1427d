"""Replay with an agent: it asks so long after a fault what is not due by then, and pays for it itself."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ssd, workload
from numba import njit
from typer.testing import CliRunner

from kdtool.cli import app
from kdtool.errors import ParameterError
from kdtool.replay import DEVICE_FIELDS, Flush, ProgramPolicy, load_policy, replay, run_shadow
from kdtool.replay.agent import CALL_RANGES, FREE_NS, QUEUE_COUNT, QUEUE_FIRST, new_agent
from kdtool.replay.agentloop import _begin_call, _go_on
from kdtool.replay.memory import PREDICTED, SWAPPED, new_memory
from kdtool.replay.policies.base import Prepared
from kdtool.rmt import stride_program
from kdtool.rmt.numba_vm import DECIDE

STEP_NS = 5_000_000
"""Between two touches: longer than any fault takes."""
STEP_INSNS = STEP_NS * 1000 // 310
SINCE = [*range(60), *range(39, 9, -1)]
"""New pages, of which the last 20 stay, and 30 misses, by which it is known that a miss takes a step."""
MISSES = 30


@njit(DECIDE)
def _next_four(params, state, ctx, out):
    if ctx[0] >= 10:
        return 0
    for i in range(4):
        out[i] = ctx[0] + i + 1
    return 4


class NextFour:
    """Asks for the four pages after the one that is touched, of the first ten."""

    name, version, degree_pages, decide = "next-four", "1", 4, staticmethod(_next_four)

    def prepare(self, setting):
        return Prepared(np.zeros(1, np.int64), np.zeros(1, np.int64))


def score(w, policy, agent_ns, pages=20, **change):
    device = ssd().by_agent(agent_ns).having(change)
    return replay(w, policy, run_shadow(w, pages, device, "lru"), device)


@pytest.mark.parametrize(
    ("late_steps", "major", "used"),
    # The touch of 5 has 6 to 9 asked for, which are due one step after the other, but 6, of which it is not
    # known how long a hit takes. A step and a half later, 6 was touched, and 7 is due.
    [(0, 1, 3), (0.5, 2, 2), (1.5, 3, 1), (2.5, 4, 0), (9, 4, 0)],
)
def test_a_page_that_is_due_before_its_turn_is_a_major_fault(late_steps, major, used):
    w = workload([*SINCE, 5, 6, 7, 8], step_insns=STEP_INSNS)

    result = score(w, NextFour(), int(late_steps * STEP_NS))

    assert (result.major_faults - MISSES, result.prefetch_used) == (major, used)
    assert result.agent_ns == late_steps * STEP_NS


def test_an_agent_that_is_always_too_late_costs_what_its_looking_costs():
    w = workload([*range(60), *range(60)])
    none = score(w, load_policy("none"), 0)

    late = score(w, NextFour(), 10**12, beside_ns=100)

    assert (late.major_faults, late.runtime_ns, late.prefetch_issued) == (60, none.runtime_ns + 60 * 100, 0)


def test_the_agent_pays_for_what_it_asks_for():
    w = workload([*SINCE, 5, 6, 7, 8], step_insns=STEP_INSNS)
    dear = {"prefetch_ns": 100_000, "reclaim_ns": 50_000}

    by_kernel = score(w, NextFour(), 0).runtime_ns, score(w, NextFour(), 0, **dear).runtime_ns
    by_agent = score(w, NextFour(), 1000).runtime_ns, score(w, NextFour(), 1000, **dear).runtime_ns

    n_reclaimed_by_faults = 40 + MISSES + 2  # those of new pages, and of 5 and 6
    cheap_ns = ssd().number("reclaim_ns")
    assert by_agent[1] - by_agent[0] == n_reclaimed_by_faults * (50_000 - cheap_ns)
    assert by_kernel[1] - by_kernel[0] > by_agent[1] - by_agent[0] + 3 * 100_000


# Its own work, of a page, a range and a call; what its reclaim waits for: test_agent_reclaim.py.
@pytest.mark.parametrize(
    ("cost", "slow_ns"),
    [("prefetch_ns", STEP_NS), *((cost, 4 * STEP_NS) for cost in ("range_ns", "call_ns"))],
)
def test_one_call_waits_for_the_one_before(cost, slow_ns):
    # 5 has three pages asked for, and 0, a step later, three more, of which 3 is touched after four steps.
    w = workload([*SINCE, 5, 0, 10, 11, 12, 3], step_insns=STEP_INSNS)

    quick, late = (score(w, NextFour(), 1000, **{cost: ns}) for ns in (1000, slow_ns))

    assert (quick.major_faults - MISSES, quick.prefetch_used) == (2, 1)
    assert (late.major_faults - MISSES, late.prefetch_used) == (3, 0)


@njit
def one_call(memory, policy, device):
    _begin_call(0, memory, policy[4], policy[6], policy[7], device)
    while policy[4][CALL_RANGES]:
        _go_on(20, memory, policy, device)


def test_an_agent_pays_for_each_call_and_for_each_range_of_one():
    status, agent = new_memory(40, 20, "linux", Flush()), new_agent(works=True)
    status.pages["status"][:20], status.pages["slot"][:20] = SWAPPED, range(20)
    memory, device, words = status.arrays(), ssd().by_agent(1000).values, agent.words
    policy = (*np.zeros((4, 8), np.int64), *agent)
    took_ns = []
    for pages in ([2], [4, 5], [7, 9]):  # in one range, in one, and in two
        for at, page in enumerate(pages):
            agent.queue[at] = page, 10**9
            memory[8][page] |= PREDICTED
        words[[QUEUE_FIRST, QUEUE_COUNT]] = 0, len(pages)
        one_call(memory, policy, device)
        took_ns.append(words[FREE_NS])

    page_ns, range_ns, call_ns = (
        int(device[DEVICE_FIELDS.index(name)]) for name in ("prefetch_ns", "range_ns", "call_ns")
    )
    one = call_ns + range_ns + page_ns
    assert took_ns == [one, one + page_ns, one + page_ns + range_ns]


@pytest.mark.parametrize(("after", "events"), [([5, 6, 8], 3), ([6, 8], 0), ([5, 20, 21], 3)])
def test_the_first_touch_of_a_new_page_is_an_event_if_it_was_predicted(after, events):
    # 5 goes out; at its major fault 6 to 9 are predicted, which there were never.
    w = workload([5, *range(20, 60), *after], step_insns=STEP_INSNS)

    assert score(w, NextFour(), 1000).decisions == events


@pytest.mark.parametrize("name", ["none", "linux-vma", "linux-cluster", "oracle"])
def test_linux_and_bounds_need_no_agent(name):
    rng = np.random.default_rng(3)
    w = workload(np.concatenate([np.arange(300), rng.integers(0, 300, 300)]))

    kernel, beside = (score(w, load_policy(name), agent_ns, 100) for agent_ns in (0, 300_000))

    assert replace(kernel, replay_s=0) == replace(beside, replay_s=0)
    assert beside.agent_ns == 0


def test_a_stride_is_covered_when_its_lead_is_longer_than_the_agent_is_late():
    w = workload(np.concatenate([np.arange(2000), np.arange(0, 2000, 3)]), step_insns=100_000)  # 31 us a page
    eight, many = (ProgramPolicy(stride_program(degree_pages=n)) for n in (8, 64))

    at_once, late, ahead = (
        score(w, p, ns, 500) for p, ns in ((eight, 0), (eight, 1_200_000), (many, 1_200_000))
    )

    assert at_once.coverage > 0.95 and ahead.coverage > 0.9
    assert late.coverage < 0.5  # of those read together the last was decided a moment ago


def test_a_time_out_of_range_is_refused():
    with pytest.raises(ParameterError, match="-1 ns late: give from 0"):
        ssd().by_agent(-1)


def test_the_command_line_says_that_an_agent_asked():
    arguments = ["replay", "examples/stencil.kdt", "-m", "75%", "-p", "linux-vma,examples/stencil.rmt.json"]
    texts = [CliRunner().invoke(app, [*arguments, *more]).output for more in ([], ["--agent-us", "300"])]
    assert "asked for by an agent 300 us after a fault" in texts[1]
    assert "agent" not in texts[0]

"""Replay beside live: what kdtool.live.predict says of the bench's programs and variants."""

from collections.abc import Sequence

from bench.live.measure import AGENT_NS, Variant, limit_of, looks_of, unlimited_ns
from bench.live.store import LiveStore
from bench.live.workloads import Pair
from kdtool.fidelity.footprint import replay_pages
from kdtool.live.predict import ByAgent, Predicted, lateness_ns, predict
from kdtool.replay import Device, Policy, load_policy, load_workload
from kdtool.traces import Trace

__all__ = ["predict_pair"]


def predict_pair(
    pair: Pair, variants: Sequence[Variant], store: LiveStore, percent: int, device: Device
) -> dict[str, Predicted]:
    """Return what replay says of each variant, by name; the references of `pair.run` are recorded before."""
    footprint = store.footprint(pair.run)
    assert footprint is not None and store.recorded(pair.run) is not None, "measured and recorded first"
    limit = limit_of(pair, store, percent)
    acts = {v.name: v.policy not in (None, "none") for v in variants}
    policies = {variant.name: _policy(variant, pair, store) for variant in variants}
    return predict(
        load_workload(Trace(store.trace(pair.run))),
        replay_pages(limit, footprint.kernel_bytes, 0),
        device.having(looks_of(pair, store)),
        unlimited_ns(pair, store),
        alone={name: policy for name, policy in policies.items() if not acts[name]},
        acting={
            v.name: ByAgent(
                policies[v.name],
                lateness_ns(store.runs(pair, v.name, limit), AGENT_NS),
                v.kernel.policies[0],
            )
            for v in variants
            if acts[v.name]
        },
    )


def _policy(variant: Variant, pair: Pair, store: LiveStore) -> Policy:
    if variant.policy is None:
        return variant.kernel.policies[0]
    return load_policy(str(store.program(pair)) if variant.policy == "learned" else variant.policy)

"""Events of block devices, and the requests that they make up: what `collect` and the importers share."""

from kdtool.traces.blockio.events import EVENT, BlockEvent, Events, op_of
from kdtool.traces.blockio.matcher import RequestMatcher
from kdtool.traces.blockio.plain import BlockColumns

__all__ = ["EVENT", "BlockColumns", "BlockEvent", "Events", "RequestMatcher", "op_of"]

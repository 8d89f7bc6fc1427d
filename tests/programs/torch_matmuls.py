"""Record COUNT matrix products with torch.profiler into FILE; print how often each operator ran, as JSON."""

import json
import sys

import torch
from torch.profiler import ProfilerActivity, profile

count, file = int(sys.argv[1]), sys.argv[2]
left, right = torch.ones(8, 8), torch.ones(8, 8)
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
    for _ in range(count):
        torch.matmul(left, right)
    torch.relu(torch.add(left, right))
profiler.export_chrome_trace(file)
print(json.dumps({row.key: row.count for row in profiler.key_averages()}))

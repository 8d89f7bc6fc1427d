"""What runs live: an agent beside a stock kernel, by which a program prefetches for a cgroup's processes."""

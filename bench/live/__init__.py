"""Does a learned prefetcher make real programs faster on the running kernel?"""

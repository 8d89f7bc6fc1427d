"""How we speak to Linux, by ctypes and files: perf events, cgroups, swap, host facts. No policy."""

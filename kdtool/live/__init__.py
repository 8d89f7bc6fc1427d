"""`kdtool deploy`: a program, or a baseline of replay, run live by the agent of deploy/.

Here since only the front door may put replay's policies and the agent together.
"""

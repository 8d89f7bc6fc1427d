"""Before every test: signals as a terminal gives them, however the tests were started."""

import signal

from hypothesis import settings

# Programs that tests run, not modules with doctests.
collect_ignore = ["programs"]

# The clock of a busy machine says nothing of a test case.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# A shell starts background jobs with SIGINT ignored, and what we start would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

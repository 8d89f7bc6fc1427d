"""Before every test: signals as a terminal gives them, however the tests were started."""

import signal

# Programs that tests run, not modules with doctests.
collect_ignore = ["programs"]

# A shell starts background jobs with SIGINT ignored, and what we start would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

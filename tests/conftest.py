"""What every test runs under."""

import signal

# A shell that runs us in the background has us ignore Ctrl-C, and whoever we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

"""``python -m scenes demo`` or ``bench``; see tools/demo and tools/bench."""

import signal
import sys
from importlib import import_module

# Until `run_program` can undo what was begun there is nothing to undo: just end.
signal.signal(signal.SIGINT, signal.SIG_DFL)

program = import_module("scenes.program")
scene = import_module(f"scenes.{sys.argv[1]}")
sys.exit(program.run_program(lambda: scene.main(sys.argv[2:])))

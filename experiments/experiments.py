"""Stand for the package `experiments` where a command is run as a script.

`python experiments/run.py` looks for imports in the folder of run.py first, hence for `experiments`
here. This file makes the folder above the place to look, and the package that lies there takes its
name; so the commands of a checkout run its own code, installed or not.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
del sys.modules[__name__]
importlib.import_module(__name__)

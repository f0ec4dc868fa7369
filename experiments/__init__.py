"""Commands, and the packages that they are made of: the only place where networks and data meet."""

import os
import sys
from pathlib import Path

# Before torch is imported. A thread that waits for its team spins for so many rounds before it
# sleeps. OpenMP's default of 300,000 made training several times slower wherever another process
# wanted the cores; a short spin costs a machine of one's own about 5 %.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# `python experiments/run.py` puts this folder first on the import path, where `import evaluate`
# would find a command of ours instead of the package of that name.
HERE = Path(__file__).parent
sys.path[:] = [place for place in sys.path if not place or Path(place).resolve() != HERE]

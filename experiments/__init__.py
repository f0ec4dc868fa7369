"""What is run: the only place where networks and data meet."""

import os

# Before torch is imported. A thread that waits for its team spins for so many rounds before it sleeps. OpenMP's default of 300,000 made
# training several times slower wherever another process wanted the cores; a short spin costs a machine of one's own about 5 %.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

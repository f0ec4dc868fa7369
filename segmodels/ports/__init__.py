"""Papers as other code lines compute them, a folder for each code line.

`segmodels.from_released` loads their weights.
"""

SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"  # the test mode of several code lines

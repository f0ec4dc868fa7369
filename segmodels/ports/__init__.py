"""Papers as other code lines compute them, a folder for each; reached by `from_released`."""

SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"  # of several code lines' tests

"""Draw scenes for another process: the bytes of image and label ids of each go to the output.

python -m datamodules.scenes SEED HEIGHT WIDTH FIRST END STEP
"""

import sys

import cv2

from datamodules.scenes import scene

seed, height, width, *numbers = map(int, sys.argv[1:])
cv2.setNumThreads(0)  # the other cores have processes of their own
for index in range(*numbers):
    for pixels in scene(seed, index, height, width):
        sys.stdout.buffer.write(pixels.tobytes())

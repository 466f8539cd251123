"""DeepDream from ONNX files, without a deep-learning framework.

import imageio.v3 as iio
import onnxdream
from onnxdream import objectives

model = onnxdream.load_model("squeezenet1_1")
dreamer = onnxdream.Dreamer(model, objectives.l2("fire6"))
iio.imwrite("dream.png", dreamer.dream(iio.imread("photo.jpg")).picture)
"""

import logging

import lazy_loader

from .version import __version__ as __version__

logging.getLogger(__name__).addHandler(logging.NullHandler())  # notes are shown to those who ask for them

# The public names are listed in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

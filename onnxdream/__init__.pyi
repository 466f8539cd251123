from . import errors as errors
from . import objectives as objectives
from .cluster.ray import RayCluster as RayCluster
from .dream.dreamer import Dream as Dream
from .dream.dreamer import Dreamer as Dreamer
from .dream.dreamer import Progress as Progress
from .dream.step_graph import build_gradient_model as build_gradient_model
from .dream.step_graph import build_step_model as build_step_model
from .errors import OnnxDreamError as OnnxDreamError
from .interpret.activations import activations as activations
from .interpret.grid import show as show
from .interpret.visualizer import visualize as visualize
from .networks.model import Model as Model
from .networks.model import load_model as load_model
from .objectives import Objective as Objective
from .video.dreamer import VideoDreamer as VideoDreamer
from .video.dreamer import create_video_dreamer as create_video_dreamer
from .video.dreamer import dream_frames as dream_frames
from .video.job.job import dream_video as dream_video

__version__: str

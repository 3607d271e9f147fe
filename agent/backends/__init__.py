"""Where the static graphs of a bundle run: on the processor, on a Qualcomm HTP, or in a worker process that
owns it. Importing this is light; ONNX Runtime and its plugins come with the backend that is opened.
"""

from mobifarm.agent.backends.interface import Backend, BackendError, Placement

__all__ = ["Backend", "BackendError", "Placement"]

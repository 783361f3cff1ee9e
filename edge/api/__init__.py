"""HTTP that is not a viewer's stream: `build` the public application, `build_private` the one behind the firewall."""

from edge.api.app import Service, build, build_private
from edge.api.serving import runner

__all__ = ["Service", "build", "build_private", "runner"]

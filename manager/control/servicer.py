"""The Control service on the leader, put together from one module per kind."""

from flota.manager.control.backups import Backups
from flota.manager.control.cluster import ClusterCalls
from flota.manager.control.events import Events
from flota.manager.control.explaining import Explaining
from flota.manager.control.files import Files
from flota.manager.control.histories import Histories
from flota.manager.control.networks import Networks
from flota.manager.control.nodes import Nodes
from flota.manager.control.services import Services
from flota.manager.control.tasks import Tasks
from flota.manager.control.watch import Watch


class Control(
    Services,
    Histories,
    Explaining,
    Tasks,
    Nodes,
    Networks,
    Files,
    ClusterCalls,
    Backups,
    Watch,
    Events,
):
    """Register it with a gRPC server, and run `run` while this manager leads. ControlBase has the constructor."""

    name = "control"

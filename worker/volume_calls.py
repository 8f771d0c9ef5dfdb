"""The part of the Agent service that is about volumes: calls, passed to Volumes."""

import asyncio
import subprocess
from typing import Any

from flota.rpc.errors import Internal, InvalidArgument
from flota.v1 import types_pb2 as types
from flota.v1.local_pb2 import (
    CreateVolumeRequest,
    CreateVolumeResponse,
    ListVolumesRequest,
    ListVolumesResponse,
    PruneVolumesRequest,
    PruneVolumesResponse,
    RemoveVolumeRequest,
    RemoveVolumeResponse,
)
from flota.worker.images.unpack import total_size
from flota.worker.labels import has_labels
from flota.worker.runtime.container import BadContainer
from flota.worker.volumes import ANONYMOUS, Volume, VolumeNotFound, Volumes

_UNKNOWN = -1


class VolumeCalls:
    """To be mixed into the servicer, which has the volumes as `volumes`."""

    volumes: Volumes

    async def CreateVolume(self, request: CreateVolumeRequest, context: Any) -> CreateVolumeResponse:
        """Raises InvalidArgument, Internal."""
        try:
            volume = await self.volumes.create(request.name, request.driver, request.labels)
        except BadContainer as error:
            raise InvalidArgument(str(error)) from None
        except OSError as error:
            raise Internal(f"the volume could not be made: {error}") from None
        return CreateVolumeResponse(volume=self._shown(volume))

    async def ListVolumes(self, request: ListVolumesRequest, context: Any) -> ListVolumesResponse:
        """Those of this node."""
        return ListVolumesResponse(volumes=await asyncio.to_thread(self._wanted, request))

    async def RemoveVolume(self, request: RemoveVolumeRequest, context: Any) -> RemoveVolumeResponse:
        """Raises NotFound, FailedPrecondition (in use), Internal."""
        try:
            await self.volumes.remove(request.name)
        except VolumeNotFound:
            if not request.force:
                raise
        except (OSError, subprocess.SubprocessError) as error:
            raise Internal(f"volume {request.name} could not be removed: {error}") from None
        return RemoveVolumeResponse()

    async def PruneVolumes(self, request: PruneVolumesRequest, context: Any) -> PruneVolumesResponse:
        """Those that nothing uses, as Docker has it only those without a name if not `all`. Raises Internal."""
        sizes: dict[str, int] = {}

        def wanted(volume: Volume) -> bool:
            if not has_labels(volume.labels, request.labels):
                return False
            if not request.all and ANONYMOUS not in volume.labels:
                # Somebody gave it a name, and may want it back.
                return False
            sizes[volume.name] = self._size(volume)
            return True

        try:
            names = await self.volumes.prune(wanted)
        except (OSError, subprocess.SubprocessError) as error:
            raise Internal(f"a volume could not be removed: {error}") from None
        return PruneVolumesResponse(names=names, reclaimed_bytes=sum(max(0, sizes[name]) for name in names))

    def _wanted(self, request: ListVolumesRequest) -> list[types.Volume]:
        result = []
        for volume in self.volumes.all():
            if request.names and volume.name not in request.names:
                continue
            shown = self._shown(volume)
            shown.task_ids.extend(sorted(self.volumes.users(volume.name)))
            shown.size_bytes = self._size(volume) if request.sizes else _UNKNOWN
            result.append(shown)
        return result

    def _shown(self, volume: Volume) -> types.Volume:
        shown = described(volume)
        shown.mountpoint = str(self.volumes.mountpoint(volume.name))
        return shown

    def _size(self, volume: Volume) -> int:
        # What a driver mounts is somewhere else.
        return _UNKNOWN if volume.options else total_size(self.volumes.mountpoint(volume.name))


def described(volume: Volume) -> types.Volume:
    """A volume as managers hear of it."""
    shown = types.Volume(name=volume.name, driver="local", options=volume.options, labels=volume.labels)
    shown.created_at.FromJsonString(volume.created)
    return shown

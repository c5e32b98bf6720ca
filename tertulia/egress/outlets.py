"""A plan's targets -> outputs with their names and storage: what a job writes to.

Decides each file's final name and which storage it goes to (the output's own, else the server's, else the local disk).
Imports libav and obstore through the outputs: import this module lazily. Runs on the loop.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tertulia.egress.api import EgressConfig
from tertulia.egress.naming import Facts, fill, safe_part
from tertulia.egress.naming import file_name as name_of_file
from tertulia.egress.outputs.api import Hooks, Output
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.hls import SegmentsOutput, SegmentsPlan
from tertulia.egress.outputs.images import ImagesOutput, ImagesPlan
from tertulia.egress.outputs.rtmp import StreamsOutput
from tertulia.egress.outputs.upload import Depot, StorageOptions, storage_of
from tertulia.egress.outputs.websocket import WebSocketOutput
from tertulia.egress.plan import OneTrackSource, PersonSource, Plan
from tertulia.egress.targets import (
    FileTarget,
    ImagesTarget,
    SegmentsTarget,
    Storage,
    StreamsTarget,
    Target,
    WebSocketTarget,
)
from tertulia.protocol.errors import RequestError

Stored = FileTarget | SegmentsTarget | ImagesTarget
"""Targets that end in files."""

PENDING = ".pending"
"""Below the root: recordings on their way to remote storage, one directory per job."""


@dataclass(slots=True)
class Outlets:
    """All outputs of one job."""

    outputs: list[Output] = field(default_factory=list)
    streams: StreamsOutput | None = None
    sockets: list[WebSocketOutput] = field(default_factory=list)
    images: list[ImagesOutput] = field(default_factory=list)
    manifest: tuple[Depot, str] | None = None
    """Where the manifest goes: the depot of the first stored output that wants one, and its directory."""
    depots: list[Depot] = field(default_factory=list)

    @property
    def failed_for_good(self) -> list[str]:
        """Outputs whose failure is the job's: all but streams, which fail alone."""
        return [output.failed for output in self.outputs if output is not self.streams and output.failed]

    @property
    def all_failed(self) -> bool:
        return bool(self.outputs) and all(output.failed for output in self.outputs)

    @property
    def all_streams_removed(self) -> bool:
        """Nothing but streams was wanted, and callers have taken the last one away."""
        only = self.streams is not None and self.outputs == [self.streams]
        return only and self.streams is not None and not self.streams.active and not self.streams.failed


def check_storage(plan: Plan, config: EgressConfig) -> None:
    """Refuse at once what could only fail later. Raises RequestError."""
    for target in plan.targets:
        if isinstance(target, StreamsTarget | WebSocketTarget):
            continue
        if target.storage is not None:
            storage_of(target.storage, StorageOptions(rules=config.addresses))
        elif config.storage is None and not config.allow_local_storage:
            raise RequestError(
                "invalid_argument", "request has missing or invalid field: output (no storage; local files are off)"
            )


def open_outlets(plan: Plan, config: EgressConfig, facts: Facts, hooks: Hooks, *, ending: str = "") -> Outlets:
    """Make the outputs. `ending` is the file ending for a track as it is. Raises RequestError."""
    found = Outlets()
    depots: dict[bytes, Depot] = {}

    def depot_for(target: Stored) -> Depot:
        key = _key(target.storage)
        if key not in depots:
            depots[key] = _depot(target.storage, config, facts.egress_id)
            found.depots.append(depots[key])
        return depots[key]

    for target in plan.targets:
        output = _output(target, plan, config, facts, hooks, ending, depot_for)
        found.outputs.append(output)
        if isinstance(output, StreamsOutput):
            found.streams = output
        elif isinstance(output, WebSocketOutput):
            found.sockets.append(output)
        elif isinstance(output, ImagesOutput):
            found.images.append(output)
        if isinstance(target, Stored) and target.manifest and not found.manifest:
            found.manifest = depot_for(target), _directory(target, facts)
    return found


def _output(
    target: Target,
    plan: Plan,
    config: EgressConfig,
    facts: Facts,
    hooks: Hooks,
    ending: str,
    depot_for: Callable[[Stored], Depot],
) -> Output:
    identifier = _identifier(plan, facts)
    match target:
        case FileTarget():
            ending = f".{target.container}" if target.container else ending
            return FileOutput(name_of_file(target.template, facts, identifier, ending), depot_for(target), hooks)
        case SegmentsTarget():
            return SegmentsOutput(_segments(target, facts, identifier), depot_for(target), hooks)
        case StreamsTarget():
            return StreamsOutput(target.urls, config.addresses, hooks)
        case WebSocketTarget():
            return WebSocketOutput(target.url, config.addresses, hooks)
        case ImagesTarget():
            return ImagesOutput(_images(target, facts, identifier), depot_for(target), hooks)


def _images(target: ImagesTarget, facts: Facts, identifier: str) -> ImagesPlan:
    prefix = fill(target.prefix, facts)
    if not prefix or prefix.endswith("/"):
        prefix += f"{safe_part(identifier)}-{facts.values()['time']}"
    return ImagesPlan(prefix, target.interval_s, target.width, target.height, target.suffix)


def _segments(target: SegmentsTarget, facts: Facts, identifier: str) -> SegmentsPlan:
    """Empty names follow from the others: prefix from playlist, playlist from prefix, both from the job."""
    made_up = f"{safe_part(identifier)}-{facts.values()['time']}"
    prefix, playlist = fill(target.prefix, facts), fill(target.playlist, facts)
    if playlist.endswith("/"):
        playlist += made_up
    if prefix.endswith("/"):
        prefix += made_up
    playlist = playlist or prefix or made_up
    if not playlist.endswith(".m3u8"):
        playlist += ".m3u8"
    home, slash, _ = playlist.rpartition("/")
    if not prefix:
        prefix = playlist.removesuffix(".m3u8")
    elif slash and not prefix.startswith(home + "/"):
        prefix = f"{home}/{prefix}"
    live = fill(target.live_playlist, facts)
    if live and not live.endswith(".m3u8"):
        live += ".m3u8"
    if live and slash and "/" not in live:
        live = f"{home}/{live}"
    return SegmentsPlan(prefix, playlist, live, target.duration_s, target.suffix == 1)


def _identifier(plan: Plan, facts: Facts) -> str:
    """What a file is called after whose name nobody gave."""
    match plan.source:
        case PersonSource(identity=identity):
            return identity
        case OneTrackSource(track_id=track_id):
            return track_id
        case _:
            return facts.room_name


def _directory(target: Stored, facts: Facts) -> str:
    name = target.template if isinstance(target, FileTarget) else target.prefix
    if isinstance(target, SegmentsTarget):
        name = target.playlist or target.prefix
    return fill(name, facts).rpartition("/")[0]


def tidy(config: EgressConfig, egress_id: str) -> None:
    """Directories that a job no longer needs; what still holds a recording stays."""
    home = Path(config.root) / PENDING / egress_id
    for directory, _, _ in os.walk(home, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _key(storage: Storage | None) -> bytes:
    return b"" if storage is None else type(storage).__name__.encode() + storage.SerializeToString(deterministic=True)


def _depot(wish: Storage | None, config: EgressConfig, egress_id: str) -> Depot:
    if wish is None and config.storage is None:
        return Depot(config.root)
    if wish is not None:
        storage = storage_of(wish, StorageOptions(rules=config.addresses))
    else:
        assert config.storage is not None
        options = StorageOptions(config.storage_prefix, config.storage_presigned)
        storage = storage_of(config.storage, options)
    backup = None
    if config.backup is not None:
        backup = storage_of(config.backup, StorageOptions(config.backup_prefix, config.backup_presigned))
    return Depot(Path(config.root) / PENDING / egress_id, storage, backup)

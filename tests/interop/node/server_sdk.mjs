// Every method of livekit-server-sdk against a standing call of `ada` and `ann`; the orders come as JSON in argv[2].
// Prints {passed, wrong}; what was expected and did not come stands in `wrong`.
import {
  DataPacket_Kind, DirectFileOutput, EgressClient, EgressStatus, EncodedFileOutput, EncodingOptions, RoomServiceClient, StreamOutput,
} from "livekit-server-sdk";

const { url, key, secret, room, ada, ann } = JSON.parse(process.argv[2]);
const rooms = new RoomServiceClient(url, key, secret);
const egress = new EgressClient(url, key, secret);
const wrong = [];
let passed = 0;

function holds(name, truth, seen = "") {
  if (truth) passed += 1;
  else wrong.push(`${name}: ${JSON.stringify(seen, (_, value) => (typeof value === "bigint" ? String(value) : value))}`);
}

async function refused(name, work, code, words = "") {
  try {
    await work();
    wrong.push(`${name}: was not refused`);
  } catch (error) {
    holds(name, error.code === code && String(error.message).includes(words), { code: error.code, message: error.message });
  }
}

async function until(id, status) {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const [info] = await egress.listEgress({ egressId: id });
    if (info.status >= status) return info;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${id} does not get to ${status}`);
}

// rooms
const made = await rooms.createRoom({ name: "js", emptyTimeout: 60, maxParticipants: 4, metadata: "about" });
holds("createRoom", made.sid.startsWith("RM_") && made.metadata === "about" && made.maxParticipants === 4 && made.emptyTimeout === 60, made);
holds("createRoom again", (await rooms.createRoom({ name: "js" })).sid === made.sid);
await refused("createRoom without name", () => rooms.createRoom({ name: "" }), "invalid_argument", "name is required");
holds("listRooms", (await rooms.listRooms()).map((one) => one.name).sort().join() === ["js", room].sort().join());
holds("listRooms by name", (await rooms.listRooms(["js", "none"])).length === 1);
holds("updateRoomMetadata", (await rooms.updateRoomMetadata("js", "new")).metadata === "new");
await refused("updateRoomMetadata", () => rooms.updateRoomMetadata("none", "new"), "not_found", "requested room does not exist");
await rooms.deleteRoom("js");
holds("deleteRoom", (await rooms.listRooms(["js"])).length === 0);
await refused("deleteRoom", () => rooms.deleteRoom("js"), "not_found", "requested room does not exist");

// people
holds("listParticipants", (await rooms.listParticipants(room)).map((one) => one.identity).sort().join() === "ada,ann");
await refused("listParticipants", () => rooms.listParticipants("none"), "not_found", "requested room does not exist");
const annInfo = await rooms.getParticipant(room, "ann");
holds("getParticipant", annInfo.tracks.length === 2 && annInfo.tracks.some((one) => one.sid === ann.video), annInfo);
await refused("getParticipant", () => rooms.getParticipant(room, "none"), "not_found", "participant does not exist");
const muted = await rooms.mutePublishedTrack(room, "ada", ada.audio, true);
holds("mutePublishedTrack", muted.sid === ada.audio && muted.muted, muted);
await refused("mute unknown", () => rooms.mutePublishedTrack(room, "ada", "TR_x", true), "not_found", "track is not found");
await refused("unmute", () => rooms.mutePublishedTrack(room, "ada", ada.audio, false), "failed_precondition", "remote unmute not enabled");
const updated = await rooms.updateParticipant(room, "ann", { metadata: "m", name: "Annie", attributes: { a: "1" } });
holds("updateParticipant", updated.metadata === "m" && updated.name === "Annie" && updated.attributes.a === "1", updated);
const allowed = await rooms.updateParticipant(room, "ann", { permission: { canSubscribe: true, canPublish: true, canPublishData: false } });
holds("permission", allowed.permission.canPublish && !allowed.permission.canPublishData, allowed);
await refused("updateParticipant", () => rooms.updateParticipant(room, "none", { name: "x" }), "not_found", "participant does not exist");
await rooms.updateSubscriptions(room, "ann", [ada.video], false);
await rooms.updateSubscriptions(room, "ann", [ada.video], true);
holds("updateSubscriptions", true);
await refused("updateSubscriptions", () => rooms.updateSubscriptions(room, "none", [ada.video], true), "not_found", "participant does not exist");
await rooms.sendData(room, new TextEncoder().encode("hello"), DataPacket_Kind.RELIABLE, { destinationIdentities: ["ann"], topic: "chat" });
holds("sendData", true);
await refused("sendData", () => rooms.sendData("none", new Uint8Array(1), DataPacket_Kind.RELIABLE, {}), "not_found", "requested room does not exist");
await refused("forwardParticipant", () => rooms.forwardParticipant(room, "ann", "other"), "unimplemented");
await refused("moveParticipant", () => rooms.moveParticipant(room, "ann", "other"), "unimplemented");
const stranger = new RoomServiceClient(url, key, "a-secret-that-is-not-the-right-one-at-all");
await refused("wrong secret", () => stranger.listRooms(), "unauthenticated");

// egress
const small = new EncodingOptions({ width: 320, height: 180, framerate: 10, videoBitrate: 300 });
const file = (name) => ({ file: new EncodedFileOutput({ filepath: `js/${name}` }) });
await refused("no output", () => egress.startRoomCompositeEgress(room, {}, {}), "invalid_argument", "output");
await refused("unknown room", () => egress.startRoomCompositeEgress("none", file("x.mp4"), {}), "not_found", "requested room does not exist");
await refused("both only", () => egress.startRoomCompositeEgress(room, file("x.mp4"), { audioOnly: true, videoOnly: true }), "invalid_argument", "audio_only and video_only");
await refused("identity", () => egress.startParticipantEgress(room, "", file("x.mp4")), "invalid_argument", "identity");
await refused("track", () => egress.startTrackEgress(room, new DirectFileOutput({ filepath: "x" }), ""), "invalid_argument", "track_id");
await refused("tracks", () => egress.startTrackCompositeEgress(room, file("x.mp4"), {}), "invalid_argument", "track_id");
await refused("web", () => egress.startWebEgress("https://example.org", file("x.mp4")), "unimplemented");
const jobs = [
  await egress.startRoomCompositeEgress(room, { ...file("room.mp4"), stream: new StreamOutput({ urls: [] }) }, { layout: "grid", encodingOptions: small }),
  await egress.startParticipantEgress(room, "ann", file("ann.mp4"), { encodingOptions: small }),
  await egress.startTrackCompositeEgress(room, file("pair.mp4"), { audioTrackId: ann.audio, videoTrackId: ann.video, encodingOptions: small }),
  await egress.startTrackEgress(room, new DirectFileOutput({ filepath: "js/track" }), ann.video),
];
for (const job of jobs) holds("active", (await until(job.egressId, EgressStatus.EGRESS_ACTIVE)).status === EgressStatus.EGRESS_ACTIVE);
holds("listEgress", (await egress.listEgress({ roomName: room, active: true })).length === 4);
holds("updateLayout", (await egress.updateLayout(jobs[0].egressId, "speaker")).request.value.layout === "speaker");
await refused("updateLayout", () => egress.updateLayout("EG_x", "grid"), "not_found", "egress does not exist");
const streaming = await egress.updateStream(jobs[0].egressId, ["rtmp://127.0.0.1:9/live/secretkey"]);
holds("updateStream", streaming.streamResults.length === 1 && !streaming.streamResults[0].url.includes("secretkey"), streaming.streamResults);
await refused("updateStream", () => egress.updateStream("EG_x", ["rtmp://127.0.0.1:9/live/key"]), "not_found", "egress does not exist");
await new Promise((done) => setTimeout(done, 1000));
for (const job of jobs) {
  const ending = await egress.stopEgress(job.egressId);
  holds("stopEgress", ending.status === EgressStatus.EGRESS_ENDING, ending.status);
  const ended = await until(job.egressId, EgressStatus.EGRESS_COMPLETE);
  holds("complete", ended.status === EgressStatus.EGRESS_COMPLETE, ended);
  await refused("stopped", () => egress.stopEgress(job.egressId), "failed_precondition", "cannot be stopped");
}
await refused("stopEgress", () => egress.stopEgress("EG_x"), "not_found", "egress does not exist");

await rooms.removeParticipant(room, "ann");
holds("removeParticipant", (await rooms.listParticipants(room)).length === 1);
await refused("removeParticipant", () => rooms.removeParticipant(room, "ann"), "not_found", "participant does not exist");
console.log(JSON.stringify({ passed, wrong }));

// The demo call: a lobby to choose a name, a room and devices, then the conference.

import { LiveKitRoom, PreJoin, VideoConference, type LocalUserChoices } from '@livekit/components-react';
import '@livekit/components-styles';
import { DisconnectReason, Room, RoomEvent, VideoPresets } from 'livekit-client';
import { useEffect, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import './style.css';
import { claimsOf, developmentToken, serverUrl, tokenFromLink } from './token';

interface Entry {
  token: string;
  room: string;
  choices: LocalUserChoices;
}

const FAREWELLS: Partial<Record<DisconnectReason, string>> = {
  [DisconnectReason.DUPLICATE_IDENTITY]: 'You joined this room from somewhere else.',
  [DisconnectReason.SERVER_SHUTDOWN]: 'The server was shut down.',
  [DisconnectReason.PARTICIPANT_REMOVED]: 'You were removed from the room.',
  [DisconnectReason.ROOM_DELETED]: 'The room was closed.',
  [DisconnectReason.ROOM_CLOSED]: 'The room was closed.',
  [DisconnectReason.JOIN_FAILURE]: 'Joining failed.',
  [DisconnectReason.STATE_MISMATCH]: 'The connection was lost for too long.',
};

const LEFT = 'You left the room.';

function App() {
  const [entry, setEntry] = useState<Entry>();
  const [message, setMessage] = useState('');
  if (entry) {
    return (
      <Call
        entry={entry}
        onLeft={(farewell) => {
          setEntry(undefined);
          setMessage(farewell);
        }}
      />
    );
  }
  return <Lobby message={message} onMessage={setMessage} onEnter={setEntry} />;
}

function Lobby(props: { message: string; onMessage: (text: string) => void; onEnter: (entry: Entry) => void }) {
  const query = new URLSearchParams(location.search);
  const given = useMemo(tokenFromLink, []);
  const invited = given ? claimsOf(given) : undefined;
  const [room, setRoom] = useState(invited?.room || query.get('room') || 'demo');
  const devices = window.isSecureContext && Boolean(navigator.mediaDevices);

  async function enter(choices: LocalUserChoices) {
    const name = choices.username.trim();
    if (!given && (!room.trim() || !name)) {
      props.onMessage('Please give a name and a room.');
      return;
    }
    props.onMessage('');
    try {
      const token = given ?? (await developmentToken(room.trim(), name));
      props.onEnter({ token, room: room.trim(), choices });
    } catch (error) {
      props.onMessage(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <main className="lobby">
      <header className="brand">
        <img src="/assets/icon.svg" alt="" width="56" height="56" />
        <div>
          <h1>Tertulia</h1>
          <p>A gathering of people who come to talk.</p>
        </div>
      </header>
      <section className="card">
        <label className="field" htmlFor="room">
          Room
          <input
            id="room"
            className="lk-form-control"
            value={room}
            maxLength={200}
            disabled={Boolean(given)}
            onChange={(event) => setRoom(event.target.value)}
          />
        </label>
        {devices ? (
          <PreJoin
            joinLabel="Join the room"
            persistUserChoices
            defaults={{ username: invited?.name || query.get('name') || '' }}
            onSubmit={enter}
            onError={(error) => props.onMessage(`Camera or microphone: ${error.message}`)}
          />
        ) : (
          <Listener name={invited?.name || query.get('name') || ''} onEnter={enter} />
        )}
        {props.message && (
          <p className={props.message === LEFT ? 'message calm' : 'message'} role="alert">
            {props.message}
          </p>
        )}
      </section>
      <footer>
        Trouble with your connection? <a href="/check">Test it</a>.
      </footer>
    </main>
  );
}

/** Browsers give no camera to pages that came over plain HTTP from another machine; watching still works. */
function Listener(props: { name: string; onEnter: (choices: LocalUserChoices) => void }) {
  const [name, setName] = useState(props.name);
  const choices = { username: name, audioEnabled: false, videoEnabled: false, audioDeviceId: '', videoDeviceId: '' };
  return (
    <form
      className="listener"
      onSubmit={(event) => {
        event.preventDefault();
        props.onEnter(choices);
      }}
    >
      <p>Your browser allows camera and microphone only over HTTPS or on localhost. You can watch and chat.</p>
      <input
        id="username"
        className="lk-form-control"
        placeholder="Username"
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <button className="lk-button lk-join-button" type="submit">
        Join to watch
      </button>
    </form>
  );
}

function Call({ entry, onLeft }: { entry: Entry; onLeft: (farewell: string) => void }) {
  const { choices } = entry;
  const room = useMemo(
    () =>
      new Room({
        adaptiveStream: true,
        dynacast: true,
        videoCaptureDefaults: { deviceId: choices.videoDeviceId || undefined, resolution: VideoPresets.h720.resolution },
        audioCaptureDefaults: { deviceId: choices.audioDeviceId || undefined },
      }),
    [entry],
  );
  const [trouble, setTrouble] = useState('');
  useEffect(() => {
    const left = (reason?: DisconnectReason) => onLeft((reason !== undefined && FAREWELLS[reason]) || LEFT);
    room.on(RoomEvent.Disconnected, left);
    return () => {
      room.off(RoomEvent.Disconnected, left);
    };
  }, [room]);
  return (
    <div className="call">
      <TopBar room={entry.room} />
      {trouble && (
        <p className="message" role="alert" onClick={() => setTrouble('')}>
          {trouble}
        </p>
      )}
      <LiveKitRoom
        room={room}
        serverUrl={serverUrl}
        token={entry.token}
        audio={choices.audioEnabled}
        video={choices.videoEnabled}
        onError={(error) => setTrouble(error.message)}
        onMediaDeviceFailure={(failure) => setTrouble(`Camera or microphone: ${failure ?? 'not available'}`)}
      >
        <VideoConference />
      </LiveKitRoom>
    </div>
  );
}

function TopBar({ room }: { room: string }) {
  const [copied, setCopied] = useState(false);
  const link = `${location.origin}/?${new URLSearchParams({ room })}`;
  async function copy() {
    try {
      await navigator.clipboard.writeText(link);
      setCopied(true);
      setTimeout(() => setCopied(false), 2000);
    } catch {
      prompt('The link to this room', link);
    }
  }
  return (
    <header className="topbar">
      <img src="/assets/icon.svg" alt="" width="24" height="24" />
      <strong title={room}>{room}</strong>
      <span className="spring" />
      <button className="lk-button" type="button" onClick={copy}>
        {copied ? 'Copied' : 'Copy the link'}
      </button>
    </header>
  );
}

createRoot(document.getElementById('app')!).render(<App />);

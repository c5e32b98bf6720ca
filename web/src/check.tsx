// The connection test: what works between this browser and this server, and a text to send to whoever runs it.

import '@livekit/components-styles';
import { CheckStatus, ConnectionCheck, type CheckInfo } from 'livekit-client';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import './style.css';
import { developmentToken, serverUrl, tokenFromLink } from './token';

type Step = { title: string; run: (check: ConnectionCheck) => Promise<CheckInfo>; devices?: boolean };

const STEPS: Step[] = [
  { title: 'Signalling (WebSocket)', run: (check) => check.checkWebsocket() },
  { title: 'Media connection (UDP, or TCP where UDP is blocked)', run: (check) => check.checkWebRTC() },
  { title: 'Coming back after a break', run: (check) => check.checkReconnect() },
  { title: 'Microphone', run: (check) => check.checkPublishAudio(), devices: true },
  { title: 'Camera', run: (check) => check.checkPublishVideo(), devices: true },
];

type Row = { title: string; state: 'waiting' | 'running' | 'good' | 'bad' | 'skipped'; lines: string[] };

function App() {
  const [rows, setRows] = useState<Row[]>(STEPS.map(({ title }) => ({ title, state: 'waiting', lines: [] })));
  const [trouble, setTrouble] = useState('');
  const [done, setDone] = useState(false);
  const [copied, setCopied] = useState(false);

  function change(index: number, row: Partial<Row>) {
    setRows((before) => before.map((old, at) => (at === index ? { ...old, ...row } : old)));
  }

  useEffect(() => {
    let over = false;
    async function runAll() {
      const token = tokenFromLink() ?? (await developmentToken(`check-${Math.random().toString(36).slice(2, 10)}`, 'check'));
      const devices = window.isSecureContext && Boolean(navigator.mediaDevices);
      for (const [index, step] of STEPS.entries()) {
        if (over) return;
        if (step.devices && !devices) {
          change(index, { state: 'skipped', lines: ['The browser gives devices only to HTTPS pages and localhost.'] });
          continue;
        }
        change(index, { state: 'running' });
        const info = await step.run(new ConnectionCheck(serverUrl, token));
        const states = { [CheckStatus.SUCCESS]: 'good', [CheckStatus.SKIPPED]: 'skipped' } as const;
        change(index, {
          state: states[info.status as keyof typeof states] ?? 'bad',
          lines: info.logs.map((log) => (log.level === 'info' ? log.message : `${log.level}: ${log.message}`)),
        });
      }
    }
    runAll()
      .catch((error) => setTrouble(error instanceof Error ? error.message : String(error)))
      .finally(() => setDone(true));
    return () => {
      over = true;
    };
  }, []);

  const text = [
    `Tertulia connection test, ${location.host}`,
    navigator.userAgent,
    ...rows.flatMap((row) => [`${row.state.padEnd(8)}${row.title}`, ...row.lines.map((line) => `        ${line}`)]),
  ].join('\n');

  return (
    <main className="lobby">
      <header className="brand">
        <img src="/assets/icon.svg" alt="" width="56" height="56" />
        <div>
          <h1>Connection test</h1>
          <p>{serverUrl}</p>
        </div>
      </header>
      <section className="card">
        <ol className="steps">
          {rows.map((row) => (
            <li key={row.title} className={row.state}>
              <strong>{row.title}</strong>
              {row.lines.map((line, at) => (
                <small key={at}>{line}</small>
              ))}
            </li>
          ))}
        </ol>
        {trouble && (
          <p className="message" role="alert">
            {trouble}
          </p>
        )}
        <button
          className="lk-button"
          type="button"
          disabled={!done}
          onClick={() => navigator.clipboard?.writeText(text).then(() => setCopied(true))}
        >
          {copied ? 'Copied' : done ? 'Copy the result as text' : 'Testing…'}
        </button>
      </section>
      <footer>
        <a href="/">To the demo call</a>
      </footer>
    </main>
  );
}

createRoot(document.getElementById('app')!).render(<App />);

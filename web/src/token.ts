// Where this page's server is and how to be let in.

export const serverUrl = location.origin.replace(/^http/, 'ws');

/** A token handed to us in the link (`/#token=...`): the fragment never travels to a server. */
export function tokenFromLink(): string | null {
  return new URLSearchParams(location.hash.slice(1)).get('token');
}

/** What an access token says, unverified: only to show it. */
export function claimsOf(token: string): { room: string; name: string } {
  try {
    const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(part), (char) => char.charCodeAt(0));
    const payload = JSON.parse(new TextDecoder().decode(bytes));
    return { room: String(payload.video?.room ?? ''), name: String(payload.name || payload.sub || '') };
  } catch {
    return { room: '', name: '' };
  }
}

/** Ask a server in development mode for a token. */
export async function developmentToken(room: string, name: string): Promise<string> {
  const identity = `${name}-${Math.random().toString(36).slice(2, 7)}`;
  const answer = await fetch('/dev/token?' + new URLSearchParams({ room, identity, name }));
  if (answer.status === 404) {
    throw new Error('This server hands out no tokens (it is not in development mode). Open a link made with `tertulia token create`.');
  }
  if (!answer.ok) throw new Error(await answer.text());
  return (await answer.json()).token;
}

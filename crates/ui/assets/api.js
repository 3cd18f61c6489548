// Calls of the member that this page came from.

import { toBase64 } from './bytes.js';

/** What is before /ui/: the member's own root, also behind a proxy. */
const BASE = new URL('../', document.baseURI);
const TIMEOUT_MS = 20_000;

/** What this port answers: { gateway, autopilot, version }. */
export const port = { gateway: false, autopilot: false, version: '' };

/** The gRPC codes that the page tells apart. */
const UNAUTHENTICATED = 16;
const PERMISSION_DENIED = 7;

export class ApiError extends Error {
  /** `status` is 0 when there was no answer at all. */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether signing in (again) may help. */
  get needsUser() {
    return (
      this.code === UNAUTHENTICATED ||
      /user name is empty|invalid auth token|revision of auth store is old/.test(this.message)
    );
  }

  get denied() {
    return this.code === PERMISSION_DENIED || /permission denied/.test(this.message);
  }

  get compacted() {
    return /revision has been compacted/.test(this.message);
  }

  get unreachable() {
    return this.status === 0;
  }
}

/** Whether an error only says that nobody waits for the answer any more. */
export function isAborted(error) {
  return error?.name === 'AbortError';
}

/** An error in words for people. */
export function explain(error) {
  if (!(error instanceof ApiError)) return error?.message || String(error);
  if (error.needsUser) return 'Sign in to see this.';
  if (error.denied) return 'Permission denied: none of your roles allows this.';
  if (error.compacted) return 'That revision was compacted: its history is gone.';
  return error.message.replace(/^etcdserver: (mvcc: )?/, (_, mvcc) => mvcc ?? '');
}

let token = null;
const listeners = { signIn: () => {}, answered: () => {} };

export function setToken(value) {
  token = value;
}

export function hasToken() {
  return token !== null;
}

/** `signIn` is called when a call was refused for want of a user; `answered(ok)` after each. */
export function listen(on) {
  Object.assign(listeners, on);
}

async function send(path, init, signal, timeout = TIMEOUT_MS) {
  const headers = { ...init.headers };
  if (token !== null) headers.Authorization = token;
  const limits = timeout ? [AbortSignal.timeout(timeout)] : [];
  if (signal) limits.push(signal);
  try {
    const response = await fetch(new URL(path, BASE), {
      ...init,
      headers,
      signal: limits.length ? AbortSignal.any(limits) : undefined,
      cache: 'no-store',
      credentials: 'same-origin',
      redirect: 'error',
    });
    listeners.answered(true);
    return response;
  } catch (error) {
    if (signal?.aborted) throw new DOMException('left', 'AbortError');
    listeners.answered(false);
    throw new ApiError(0, 14, 'This member does not answer.');
  }
}

function failure(status, text) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Not the gateway's error: a line of text.
  }
  body = body?.error ?? body;
  const message = body?.message || text.trim() || `HTTP status ${status}`;
  const error = new ApiError(status, body?.code ?? null, message);
  if (error.needsUser) listeners.signIn(error);
  return error;
}

async function read(response) {
  const text = await response.text();
  if (!response.ok) throw failure(response.status, text);
  return text;
}

/** POSTs to the gateway, at /v3/`path`. */
export async function call(path, body = {}, signal) {
  const init = {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json' },
  };
  return JSON.parse(await read(await send(`v3/${path}`, init, signal)));
}

export async function getJson(path, signal) {
  return JSON.parse(await read(await send(path, { method: 'GET' }, signal)));
}

export async function getText(path, signal) {
  return read(await send(path, { method: 'GET' }, signal));
}

/** The answer whatever its status: { status, text }. For probes, whose bad answers are answers. */
export async function probe(path, signal) {
  const response = await send(path, { method: 'GET' }, signal);
  return { status: response.status, text: await response.text() };
}

/** The lines of a stream, each as its `result`. Ends when the member ends it. */
export async function* stream(path, body, signal) {
  const init = {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json' },
  };
  const response = await send(`v3/${path}`, init, signal, 0);
  if (!response.ok) throw failure(response.status, await response.text());
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  // What has come of the line that is not whole yet, in pieces: joined once.
  let pieces = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = decoder.decode(value, { stream: true }).split('\n');
      pieces.push(lines.shift());
      for (const rest of lines) {
        const line = pieces.join('');
        pieces = [rest];
        if (!line.trim()) continue;
        const message = JSON.parse(line);
        if (message.error) throw failure(response.status, line);
        yield message.result;
      }
    }
  } catch (error) {
    if (signal?.aborted) throw new DOMException('left', 'AbortError');
    if (error instanceof ApiError || error instanceof SyntaxError) throw error;
    throw new ApiError(0, 14, 'The connection was lost.');
  } finally {
    reader.cancel().catch(() => {});
  }
}

export async function loadPort() {
  Object.assign(port, await getJson('ui/port.json'));
}

/** One pair as the gateway has it, or null. */
export async function getPair(key, { revision, signal } = {}) {
  const request = { key: toBase64(key) };
  if (revision) request.revision = String(revision);
  const answer = await call('kv/range', request, signal);
  return { pair: answer.kvs?.[0] ?? null, revision: answer.header.revision };
}

/**
 * Writes `value`, or deletes when it is null, if the key is still as it was seen.
 *
 * `seen`: the pair as it was read; null when there was none. Returns { done: true, revision } or
 * { done: false, pair } with what is there instead.
 */
export async function compareAndSet(key, seen, value, options = {}) {
  const name = toBase64(key);
  const compare = seen
    ? { target: 'MOD', result: 'EQUAL', key: name, mod_revision: seen.mod_revision }
    : { target: 'CREATE', result: 'EQUAL', key: name, create_revision: '0' };
  const change =
    value === null
      ? { request_delete_range: { key: name } }
      : { request_put: { key: name, value: toBase64(value), ...options } };
  const answer = await call('kv/txn', {
    compare: [compare],
    success: [change],
    failure: [{ request_range: { key: name } }],
  });
  if (answer.succeeded) return { done: true, revision: answer.header.revision };
  return { done: false, pair: answer.responses?.[0]?.response_range?.kvs?.[0] ?? null };
}

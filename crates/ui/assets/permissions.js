// What the roles of a user allow, as etcd reads their permissions.

import { compare, escape, fromBase64, prefixRange, equal } from './bytes.js';

const KINDS = { read: ['READ', 'READWRITE'], write: ['WRITE', 'READWRITE'] };

/** A permission of the gateway's JSON: { kind, key, end }, `end` empty for one key. */
export function toPermission(raw) {
  return {
    kind: raw.permType ?? 'READ',
    key: fromBase64(raw.key),
    end: fromBase64(raw.range_end),
  };
}

function isOpen(end) {
  return end.length === 1 && end[0] === 0;
}

function covers(permission, key) {
  if (permission.end.length === 0) return equal(permission.key, key);
  if (compare(permission.key, key) > 0) return false;
  return isOpen(permission.end) || compare(key, permission.end) < 0;
}

/** Whether the permissions allow `what` ('read' or 'write') of one key. */
export function allows(permissions, what, key) {
  const kinds = KINDS[what];
  return permissions.some((one) => kinds.includes(one.kind) && covers(one, key));
}

/** What a permission is about, in words; `prefix` is set when it is all keys of one. */
export function describe(permission) {
  const { key, end } = permission;
  const name = escape(key);
  if (end.length === 0) return { text: `the key ${name}`, prefix: key };
  const everything = isOpen(end) && (key.length === 0 || (key.length === 1 && key[0] === 0));
  if (everything) return { text: 'every key', prefix: new Uint8Array(0) };
  if (equal(prefixRange(key).end, end)) return { text: `${name}*`, prefix: key };
  return { text: `from ${name} ${isOpen(end) ? 'on' : `up to ${escape(end)}`}`, prefix: null };
}

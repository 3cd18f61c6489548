// Keys and values are bytes. Here they become text and back, always the same bytes.

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes of base64 as the gateway sends it; absent means none. */
export function fromBase64(text) {
  const binary = atob(text || '');
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export function toBase64(bytes) {
  let binary = '';
  for (let i = 0; i < bytes.length; i += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(binary);
}

export function utf8(text) {
  return encoder.encode(text);
}

/** The text that the bytes are, or null when they are not UTF-8. */
export function toText(bytes) {
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/** Whether a text holds nothing that a reader would not see. Tabs and line ends are fine. */
export function isReadable(text) {
  return !/[^\P{C}\t\n\r]/u.test(text);
}

// What is shown as it is: no controls, nothing invisible, nothing that turns the direction of text.
const SHOWN = /^[\P{C}]$/u;
const INVISIBLE = /^[\p{Z}]$/u;

function hex2(byte) {
  return byte.toString(16).padStart(2, '0');
}

function escapeBytes(bytes) {
  let out = '';
  for (const byte of bytes) out += `\\x${hex2(byte)}`;
  return out;
}

function sequenceLength(lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  if (lead >= 0xf0 && lead < 0xf5) return 4;
  return 0;
}

/**
 * Bytes as one line of text that `unescape` turns into the same bytes: what cannot be seen is \xNN,
 * a backslash is doubled. With `lines`, line feeds and tabs stay.
 */
export function escape(bytes, lines = false) {
  let out = '';
  for (let i = 0; i < bytes.length; ) {
    const length = sequenceLength(bytes[i]);
    const part = bytes.subarray(i, i + Math.max(length, 1));
    const char = length && part.length === length ? toText(part) : null;
    if (char === null) {
      out += escapeBytes(part.subarray(0, 1));
      i += 1;
      continue;
    }
    if (char === '\\') out += '\\\\';
    else if (char === ' ' || (lines && (char === '\n' || char === '\t'))) out += char;
    else if (char === '\n') out += '\\n';
    else if (char === '\t') out += '\\t';
    else if (char === '\r') out += '\\r';
    else if (SHOWN.test(char) && !INVISIBLE.test(char)) out += char;
    else out += escapeBytes(part);
    i += length;
  }
  return out;
}

/** The bytes that an escaped text stands for. Throws an Error that says what is wrong. */
export function unescape(text) {
  const parts = [];
  let plain = '';
  const flush = () => {
    if (plain) parts.push(encoder.encode(plain));
    plain = '';
  };
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== '\\') {
      plain += text[i];
      continue;
    }
    const next = text[++i];
    if (next === '\\') plain += '\\';
    else if (next === 'n') plain += '\n';
    else if (next === 't') plain += '\t';
    else if (next === 'r') plain += '\r';
    else if (next === 'x' && /^[0-9a-fA-F]{2}$/.test(text.slice(i + 1, i + 3))) {
      flush();
      parts.push(new Uint8Array([Number.parseInt(text.slice(i + 1, i + 3), 16)]));
      i += 2;
    } else {
      throw new Error('A backslash is written \\\\; a byte is written \\x and two hex digits.');
    }
  }
  flush();
  return concat(parts);
}

export function concat(parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function equal(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function compare(a, b) {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    if (a[i] !== b[i]) return a[i] - b[i];
  }
  return a.length - b.length;
}

const ZERO = new Uint8Array([0]);

/** The range of all keys with a prefix: [key, range_end) as etcd has it. */
export function prefixRange(prefix) {
  if (prefix.length === 0) return { key: ZERO, end: ZERO };
  for (let i = prefix.length - 1; i >= 0; i--) {
    if (prefix[i] < 0xff) {
      const end = prefix.slice(0, i + 1);
      end[i] += 1;
      return { key: prefix, end };
    }
  }
  return { key: prefix, end: ZERO };
}

/** The first key after `key`. */
export function keyAfter(key) {
  return concat([key, ZERO]);
}

/** Lines of 16 bytes: offset, hex, what can be seen of it. */
export function hexDump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const cells = Array.from(row, hex2);
    const left = cells.slice(0, 8).join(' ');
    const right = cells.slice(8).join(' ');
    const seen = Array.from(row, (byte) =>
      byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : byte === 0x20 ? ' ' : '·',
    ).join('');
    lines.push(`${at.toString(16).padStart(8, '0')}  ${left.padEnd(23)}  ${right.padEnd(23)}  ${seen}`);
  }
  return lines.join('\n');
}

export function toHex(bytes) {
  const cells = Array.from(bytes, hex2);
  const lines = [];
  for (let at = 0; at < cells.length; at += 16) lines.push(cells.slice(at, at + 16).join(' '));
  return lines.join('\n');
}

export function fromHex(text) {
  const digits = text.replace(/\s+/g, '');
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) {
    throw new Error('Hex is two digits for each byte, with or without spaces.');
  }
  const bytes = new Uint8Array(digits.length / 2);
  for (let i = 0; i < bytes.length; i++) {
    bytes[i] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16);
  }
  return bytes;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** A number of bytes for people: three digits and a unit. */
export function size(bytes) {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** A 64-bit number as the gateway writes it (decimal, in a string), in hex as etcdctl prints it. */
export function idToHex(decimal) {
  return BigInt.asUintN(64, BigInt(decimal || 0)).toString(16);
}

/** The other way; throws when it is none. Signed, as leases are. */
export function hexToId(text) {
  const digits = text.trim().replace(/^0x/i, '');
  if (!/^[0-9a-fA-F]{1,16}$/.test(digits)) throw new Error('An ID is up to 16 hex digits.');
  return BigInt.asIntN(64, BigInt(`0x${digits}`)).toString();
}

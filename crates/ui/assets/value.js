// A value as text, as JSON, as hex.

import { hexDump, isReadable, escape, size, toText } from './bytes.js';
import { button, copy, h } from './dom.js';

/** How much of a value is shown at first, in bytes. */
const SHOWN_MAX = 32 * 1024;
const HEX_SHOWN_MAX = 4 * 1024;

const TOKEN = /\s+|"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/gu;

/**
 * JSON laid out anew, as tokens [kind, text]; null when the text is none. Numbers and strings stay
 * as they are written: parsing them would lose digits of large numbers.
 */
export function layOutJson(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const tokens = text.match(TOKEN).filter((token) => token.trim() !== '');
  const out = [];
  let depth = 0;
  const line = () => out.push(['space', `\n${'  '.repeat(depth)}`]);
  tokens.forEach((token, at) => {
    const next = tokens[at + 1];
    if (token === '{' || token === '[') {
      out.push(['mark', token]);
      const empty = next === '}' || next === ']';
      if (!empty) {
        depth++;
        line();
      }
    } else if (token === '}' || token === ']') {
      const before = tokens[at - 1];
      if (before !== '{' && before !== '[') {
        depth--;
        line();
      }
      out.push(['mark', token]);
    } else if (token === ',') {
      out.push(['mark', token]);
      line();
    } else if (token === ':') out.push(['mark', ': ']);
    else if (token.startsWith('"')) out.push([next === ':' ? 'name' : 'string', token]);
    else out.push(['literal', token]);
  });
  return out;
}

export function formatJson(text) {
  return layOutJson(text)
    ?.map(([, token]) => token)
    .join('') ?? null;
}

/** What two values are compared by: JSON laid out, text, or hex. */
export function comparable(...values) {
  const texts = values.map(toText);
  if (texts.some((text) => text === null)) return values.map(hexDump);
  const json = texts.map((text) => (/^\s*[[{]/.test(text) ? formatJson(text) : null));
  return json.every((text) => text !== null) ? json : texts;
}

function kinds(bytes) {
  const text = toText(bytes);
  const readable = text !== null && isReadable(text);
  const json = readable && /^\s*[[{"]/.test(text) ? layOutJson(text) : null;
  const best = json && /^\s*[[{]/.test(text) ? 'JSON' : readable ? 'Text' : 'Hex';
  return { text, json, best };
}

function cut(bytes, most, all) {
  return all ? bytes : bytes.subarray(0, most);
}

function asText(bytes, all) {
  const part = cut(bytes, SHOWN_MAX, all);
  const text = toText(bytes);
  if (text === null || !isReadable(text)) return [h('pre', {}, escape(part, true))];
  // The cut may be in the middle of a character, which is then left out.
  return [h('pre', {}, new TextDecoder('utf-8', { ignoreBOM: true }).decode(part, { stream: true }))];
}

function asJson(json, all) {
  const pre = h('pre', { class: 'json' });
  let length = 0;
  for (const [kind, token] of json) {
    length += token.length;
    if (!all && length > SHOWN_MAX) break;
    pre.append(
      kind === 'space' || kind === 'mark' ? token : h('span', { class: `json-${kind}` }, token),
    );
  }
  return [pre];
}

function asHex(bytes, all) {
  return [h('pre', { class: 'hex' }, hexDump(cut(bytes, HEX_SHOWN_MAX, all)))];
}

/** A viewer with a tab for each form that the value has. */
export function valueView(bytes, label = 'Value') {
  const { text, json, best } = kinds(bytes);
  let current = best;
  let all = false;
  const panel = h('div', { class: 'value', role: 'tabpanel', tabIndex: 0 });
  const more = button('Show all', () => {
    all = true;
    show();
    panel.focus();
  });
  const rest = h('p', { class: 'rest' });
  const tabs = ['Text', 'JSON', 'Hex'].map((name) =>
    button(name, () => choose(name), {
      role: 'tab',
      disabled: name === 'JSON' && json === null,
      title: name === 'JSON' && json === null ? 'The value is no JSON' : null,
    }),
  );
  const list = h('div', { class: 'tabs', role: 'tablist', 'aria-label': `${label} as` }, tabs);
  list.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const open = tabs.filter((tab) => !tab.disabled);
    const at = open.findIndex((tab) => tab.textContent === current);
    choose(open[(at + step + open.length) % open.length].textContent);
    open.find((tab) => tab.textContent === current).focus();
  });
  function choose(name) {
    current = name;
    show();
  }
  function show() {
    for (const tab of tabs) {
      const chosen = tab.textContent === current;
      tab.setAttribute('aria-selected', String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    panel.setAttribute('aria-label', `${label} as ${current}`);
    const length = current === 'JSON' ? json.reduce((sum, [, token]) => sum + token.length, 0) : bytes.length;
    const most = current === 'Hex' ? HEX_SHOWN_MAX : SHOWN_MAX;
    const parts = { Text: () => asText(bytes, all), JSON: () => asJson(json, all), Hex: () => asHex(bytes, all) };
    panel.replaceChildren(...(bytes.length === 0 ? [h('p', { class: 'muted' }, 'empty')] : parts[current]()));
    const isCut = !all && length > most;
    rest.hidden = !isCut;
    rest.replaceChildren(`The first ${size(most)} of ${size(length)}. `, more);
  }
  show();
  const tools = h('span', { class: 'tools' }, h('span', { class: 'muted' }, size(bytes.length)));
  // The clipboard exists on pages that came safely, or from this machine.
  if (text !== null && navigator.clipboard) {
    tools.append(button('Copy', () => copy(text, 'Value'), { class: 'quiet' }));
  }
  return h('div', { class: 'viewer' }, h('div', { class: 'viewer-head' }, list, tools), panel, rest);
}

/** One line of a value for lists. */
export function preview(bytes, most = 120) {
  const part = escape(bytes.subarray(0, most));
  return bytes.length > most ? `${part}…` : part;
}

// What changed between two texts, line by line.

import { h } from './dom.js';

/** Above this many pairs of lines that differ, all of them are shown as exchanged. */
const PAIRS_MAX = 4_000_000;
const CONTEXT = 3;

/** Rows [' ' | '-' | '+', line]; null when nothing changed. */
export function diffLines(before, after) {
  const a = before.split('\n');
  const b = after.split('\n');
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (
    end < a.length - start &&
    end < b.length - start &&
    a[a.length - 1 - end] === b[b.length - 1 - end]
  ) {
    end++;
  }
  if (start === a.length && start === b.length) return null;
  const rows = a.slice(0, start).map((line) => [' ', line]);
  rows.push(...middle(a.slice(start, a.length - end), b.slice(start, b.length - end)));
  rows.push(...a.slice(a.length - end).map((line) => [' ', line]));
  return rows;
}

/** The longest common subsequence, from a table of its lengths. */
function middle(a, b) {
  const exchanged = () => [...a.map((line) => ['-', line]), ...b.map((line) => ['+', line])];
  if (a.length === 0 || b.length === 0 || a.length * b.length > PAIRS_MAX) return exchanged();
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const rows = [];
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      rows.push([' ', a[i]]);
      i++;
      j++;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) {
      rows.push(['-', a[i++]]);
    } else {
      rows.push(['+', b[j++]]);
    }
  }
  while (i < a.length) rows.push(['-', a[i++]]);
  while (j < b.length) rows.push(['+', b[j++]]);
  return rows;
}

/** Rows to show: changes with some lines around them; 'gap' rows count what is left out. */
function withContext(rows) {
  const near = new Uint8Array(rows.length);
  rows.forEach(([kind], at) => {
    if (kind === ' ') return;
    const from = Math.max(0, at - CONTEXT);
    near.fill(1, from, Math.min(rows.length, at + CONTEXT + 1));
  });
  const shown = [];
  let hidden = 0;
  rows.forEach((row, at) => {
    if (near[at]) {
      if (hidden) shown.push(['gap', hidden]);
      hidden = 0;
      shown.push(row);
    } else hidden++;
  });
  if (hidden) shown.push(['gap', hidden]);
  return shown;
}

const CLASSES = { ' ': 'same', '-': 'gone', '+': 'new', gap: 'gap' };
const SPOKEN = { '-': 'removed: ', '+': 'added: ' };
const ROWS_MAX = 2_000;

/** The difference as an element. */
export function diffView(before, after) {
  const rows = diffLines(before, after);
  if (rows === null) return h('p', { class: 'muted' }, 'The values are the same.');
  const shown = withContext(rows);
  const lines = shown.slice(0, ROWS_MAX).map(([kind, line]) => {
    if (kind === 'gap') {
      return h('div', { class: 'gap' }, `… ${line} unchanged ${line === 1 ? 'line' : 'lines'}`);
    }
    const spoken = SPOKEN[kind];
    return h(
      'div',
      { class: CLASSES[kind] },
      h('span', { class: 'mark', 'aria-hidden': 'true' }, kind),
      spoken ? h('span', { class: 'visually-hidden' }, spoken) : null,
      line || ' ',
    );
  });
  if (shown.length > ROWS_MAX) {
    lines.push(h('div', { class: 'gap' }, `… ${shown.length - ROWS_MAX} more lines`));
  }
  return h('div', { class: 'diff', tabIndex: 0, role: 'region', 'aria-label': 'Changes' }, lines);
}

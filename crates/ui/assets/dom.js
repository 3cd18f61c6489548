// Elements, dialogs and notices. Data gets into the page as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/**
 * An element. Properties that begin with `on` are listeners, `class` and those with a dash are
 * attributes, all others are the element's own properties.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'class') element.className = value;
    else if (name.includes('-') || name === 'role' || name === 'for') {
      element.setAttribute(name, value);
    } else element[name] = value;
  }
  append(element, children);
  return element;
}

/** An element of SVG; `attributes` are its own, as text. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  append(element, children);
  return element;
}

export function button(label, onclick, properties = {}) {
  return h('button', { type: 'button', onclick, ...properties }, label);
}

let ids = 0;

/** A label above its control. `hint` is read out with it. */
export function field(label, control, hint) {
  control.id ||= `f${++ids}`;
  const note = hint ? h('span', { class: 'hint', id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, note);
}

/**
 * A table; `columns` are { label, class }. Returns { element, body, label }: `label(row)` tells each
 * cell what it is about, for narrow pages, where a row is a list.
 */
export function table(caption, columns) {
  const body = h('tbody');
  const heads = columns.map((column) =>
    h('th', { scope: 'col', class: column.class }, column.label),
  );
  const element = h(
    'div',
    { class: 'scroll', tabIndex: 0, role: 'region', 'aria-label': caption },
    h(
      'table',
      {},
      h('caption', { class: 'visually-hidden' }, caption),
      h('thead', {}, h('tr', {}, heads)),
      body,
    ),
  );
  const label = (row) => {
    columns.forEach((column, i) => {
      if (row.cells[i]) row.cells[i].dataset.label = column.label;
    });
    return row;
  };
  return { element, body, label };
}

/** Says something for some seconds, without taking the focus. */
export function toast(text, kind = 'info') {
  const place = document.getElementById('toasts');
  const notice = h('div', { class: `toast ${kind}` }, text);
  place.append(notice);
  while (place.children.length > 4) place.firstChild.remove();
  setTimeout(() => notice.remove(), kind === 'error' ? 10_000 : 5_000);
}

const FOCUSABLE =
  'button:not([disabled]), a[href], input:not([disabled]), textarea:not([disabled]), ' +
  'select:not([disabled]), summary, [tabindex]:not([tabindex="-1"])';

function visible(element) {
  return element.getClientRects().length > 0;
}

/** Keeps Tab inside: the browser's own controls would be next after a modal dialog's last. */
function keepFocus(event, dialog) {
  if (event.key !== 'Tab') return;
  const all = [...dialog.querySelectorAll(FOCUSABLE)].filter(visible);
  if (all.length === 0) return event.preventDefault();
  const edge = event.shiftKey ? all[0] : all[all.length - 1];
  if (document.activeElement === edge || !dialog.contains(document.activeElement)) {
    event.preventDefault();
    (event.shiftKey ? all[all.length - 1] : all[0]).focus();
  }
}

/**
 * A modal dialog that is closed by Escape, too, and gives the focus back to where it was. Returns
 * { element, content, close(result), closed }: `closed` resolves to the result, undefined when it
 * was left.
 */
export function openDialog(title, properties = {}) {
  const before = document.activeElement;
  const heading = h('h2', { id: `d${++ids}` }, title);
  const content = h('div', { class: 'dialog-content' });
  const leave = button('×', () => close(), {
    class: 'quiet icon close',
    'aria-label': 'Close',
    title: 'Close (Esc)',
  });
  const element = h(
    'dialog',
    { 'aria-labelledby': heading.id, class: properties.class },
    h('div', { class: 'dialog-head' }, heading, leave),
    content,
  );
  let settle;
  const closed = new Promise((resolve) => {
    settle = resolve;
  });
  let result;
  function close(value) {
    result = value;
    element.close();
  }
  element.addEventListener('keydown', (event) => keepFocus(event, element));
  element.addEventListener('close', () => {
    element.remove();
    if (before?.isConnected) before.focus();
    settle(result);
  });
  document.body.append(element);
  element.showModal();
  return { element, heading, content, close, closed };
}

/** Asks before something is done that cannot be undone. Resolves to true when it is wanted. */
export async function confirm(title, body, action, kind = 'danger') {
  const dialog = openDialog(title, { class: 'narrow' });
  const cancel = button('Cancel', () => dialog.close(false));
  dialog.content.append(
    ...[body].flat(),
    h(
      'div',
      { class: 'actions' },
      cancel,
      button(action, () => dialog.close(true), { class: kind }),
    ),
  );
  // The safe answer is what Return gives.
  cancel.focus();
  return (await dialog.closed) === true;
}

/** Runs `work` now and every `interval` milliseconds while the page is seen, until `signal`. */
export function poll(work, interval, signal) {
  let timer = null;
  let running = false;
  const run = async () => {
    timer = null;
    if (signal.aborted || running) return;
    running = true;
    try {
      await work();
    } finally {
      running = false;
      if (!signal.aborted && !document.hidden) timer = setTimeout(run, interval);
    }
  };
  const wake = () => {
    if (!document.hidden && timer === null) run();
  };
  document.addEventListener('visibilitychange', wake, { signal });
  signal.addEventListener('abort', () => clearTimeout(timer));
  run();
}

/** A place where an error stands, or nothing. */
export function problemBox() {
  const element = h('div', { class: 'notice error', role: 'alert', hidden: true });
  return {
    element,
    show(text) {
      element.textContent = text;
      element.hidden = !text;
    },
  };
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    toast('The browser does not allow copying here.', 'error');
  }
}

const RELATIVE = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'min'],
  [1, 's'],
];

/** Seconds for people: the two largest units. */
export function duration(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [length, unit] of RELATIVE) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0 || (unit === 's' && parts.length === 0)) parts.push(`${count} ${unit}`);
    if (parts.length === 2) break;
  }
  return parts.join(' ');
}

const NUMBER = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

export function count(number) {
  return NUMBER.format(number);
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

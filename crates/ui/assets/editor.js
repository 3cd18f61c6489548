// Creating, editing and deleting keys. Every change is shown before it is made, and is made only if
// the key is still as it was seen: nobody's newer revision is overwritten.

import * as api from './api.js';
import {
  equal, escape, fromBase64, fromHex, hexToId, idToHex, isReadable, size, toHex, toText, unescape, utf8,
} from './bytes.js';
import { diffView } from './diff.js';
import { button, confirm, field, h, openDialog, problemBox, toast } from './dom.js';
import { comparable, formatJson } from './value.js';

/** How a value is written in the form, and read from it. */
const FORMS = {
  Text: { write: toText, read: utf8 },
  Escaped: { write: (bytes) => escape(bytes, true), read: unescape },
  Hex: { write: toHex, read: fromHex },
};

/** Whether a text area gives the same bytes back: it has line feeds alone. */
function isPlain(bytes) {
  const text = toText(bytes);
  return text !== null && !text.includes('\r') && isReadable(text);
}

/**
 * Opens the editor. `key`: bytes, or null to be chosen. `seen`: the pair that is there, null for a
 * new key. `value`: what to begin with. Resolves to the key when something was written.
 */
export async function edit({ key = null, seen = null, value = new Uint8Array(0) }) {
  const title = seen ? 'Edit key' : 'New key';
  const dialog = openDialog(title, { class: 'wide' });
  const state = { key, seen, value, form: isPlain(value) ? 'Text' : 'Escaped', dialog, title };
  state.lease = seen?.lease ? idToHex(seen.lease) : '';
  showForm(state);
  return dialog.closed;
}

/** Restores what the form said when the reader comes back to it. */
function showForm(state) {
  const { dialog, seen } = state;
  dialog.heading.textContent = state.title;
  const problem = problemBox();
  const name = h('input', {
    class: 'mono',
    value: state.name ?? (state.key ? escape(state.key) : ''),
    readOnly: seen !== null,
    spellcheck: false,
    autocomplete: 'off',
    name: 'key',
  });
  const area = h('textarea', { class: 'mono', rows: 12, spellcheck: false, name: 'value' });
  area.value = FORMS[state.form].write(state.value);
  const length = h('span', { class: 'muted' });
  const read = () => FORMS[state.form].read(area.value);
  const measure = () => {
    try {
      length.textContent = size(read().length);
    } catch {
      length.textContent = 'not readable';
    }
  };
  area.addEventListener('input', measure);
  const lease = h('input', {
    class: 'mono',
    value: state.lease,
    spellcheck: false,
    autocomplete: 'off',
    placeholder: 'none',
    name: 'lease',
  });
  const forms = formChoice(state, area, problem, measure);
  const tidy = button('Lay out JSON', () => {
    const text = formatJson(area.value);
    problem.show(text === null ? 'The value is no JSON.' : '');
    if (text !== null) area.value = text;
    measure();
  });
  const review = h('button', { type: 'submit', class: 'primary' }, 'Review…');
  const onsubmit = (event) => {
    event.preventDefault();
    try {
      state.name = name.value;
      if (!seen) state.key = unescape(name.value);
      if (state.key.length === 0) throw new Error('A key has at least one byte.');
      state.value = read();
      state.lease = lease.value.trim();
      if (state.lease) hexToId(state.lease);
      showReview(state);
    } catch (error) {
      problem.show(api.explain(error));
    }
  };
  const form = h(
    'form',
    { onsubmit, onkeydown: submitWithControl },
    field('Key', name, seen ? null : 'Bytes that cannot be typed: \\xNN. A backslash: \\\\'),
    h('div', { class: 'row' }, forms, tidy, length),
    field('Value', area),
    field('Lease', lease, 'In hex; the key ends with it. Empty: the key stays.'),
    problem.element,
    h('div', { class: 'actions' }, button('Cancel', () => dialog.close()), review),
  );
  dialog.content.replaceChildren(form);
  measure();
  (seen ? area : name).focus();
}

function submitWithControl(event) {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.currentTarget.requestSubmit();
  }
}

function formChoice(state, area, problem, measure) {
  const choices = Object.keys(FORMS).map((form) => {
    const input = h('input', {
      type: 'radio',
      name: 'form',
      value: form,
      checked: state.form === form,
    });
    input.addEventListener('change', () => {
      try {
        const bytes = FORMS[state.form].read(area.value);
        if (form === 'Text' && !isPlain(bytes)) {
          throw new Error('These bytes cannot be shown as text without changing them.');
        }
        area.value = FORMS[form].write(bytes);
        state.form = form;
        problem.show('');
        measure();
      } catch (error) {
        problem.show(error.message);
        area.form.elements.form.value = state.form;
      }
    });
    return h('label', { class: 'choice' }, input, form);
  });
  return h('fieldset', { class: 'choices' }, h('legend', { class: 'visually-hidden' }, 'Value as'), choices);
}

/** The second step: what will change, and the question. */
function showReview(state) {
  const { dialog, seen, key, value } = state;
  dialog.heading.textContent = 'Review the change';
  const problem = problemBox();
  const old = seen ? fromBase64(seen.value) : null;
  const sentence = seen
    ? `Written only if the key is still at revision ${seen.mod_revision}.`
    : 'Created only if there is no such key.';
  const oldLease = seen?.lease ? idToHex(seen.lease) : '';
  const newLease = state.lease ? idToHex(hexToId(state.lease)) : '';
  const facts = [h('dt', {}, 'Key'), h('dd', { class: 'mono' }, escape(key))];
  facts.push(
    h('dt', {}, 'Size'),
    h('dd', {}, old ? `${size(old.length)} → ${size(value.length)}` : size(value.length)),
  );
  if (oldLease !== newLease || newLease) {
    const lease = oldLease === newLease ? newLease : `${oldLease || 'none'} → ${newLease || 'none'}`;
    facts.push(h('dt', {}, 'Lease'), h('dd', { class: 'mono' }, lease));
  }
  const changes = old
    ? equal(old, value)
      ? h('p', { class: 'muted' }, 'The value stays the same; it gets a new revision.')
      : diffView(...comparable(old, value))
    : diffView('', comparable(value)[0]);
  const back = button('Back', () => showForm(state));
  const save = button(seen ? 'Save' : 'Create', () => write(state, problem, save), {
    class: 'primary',
  });
  dialog.content.replaceChildren(
    h('dl', { class: 'facts' }, facts),
    changes,
    h('p', { class: 'muted' }, sentence),
    problem.element,
    h('div', { class: 'actions' }, back, save),
  );
  save.focus();
}

async function write(state, problem, save) {
  save.disabled = true;
  problem.show('');
  try {
    const options = state.lease ? { lease: hexToId(state.lease) } : {};
    const answer = await api.compareAndSet(state.key, state.seen, state.value, options);
    if (answer.done) {
      toast(`${escape(state.key)} is at revision ${answer.revision}.`, 'good');
      state.dialog.close(state.key);
    } else {
      showConflict(state, answer.pair);
    }
  } catch (error) {
    problem.show(api.explain(error));
    save.disabled = false;
    save.focus();
  }
}

/** Somebody was faster. `theirs`: what is there now, or null. */
function showConflict(state, theirs) {
  const { dialog, value } = state;
  dialog.heading.textContent = 'Changed by somebody else';
  const text = theirs
    ? `Nothing was written: the key is at revision ${theirs.mod_revision} now. Theirs against yours:`
    : 'Nothing was written: the key was deleted meanwhile.';
  const changes = theirs ? diffView(...comparable(fromBase64(theirs.value), value)) : null;
  const again = button(theirs ? `Review against revision ${theirs.mod_revision}` : 'Review as new', () => {
    state.seen = theirs;
    state.title = theirs ? 'Edit key' : 'New key';
    showReview(state);
  });
  const leave = button('Keep theirs', () => dialog.close(state.key), { class: 'primary' });
  dialog.content.replaceChildren(
    h('p', { class: 'notice', role: 'alert' }, text),
    ...(changes ? [changes] : []),
    h('div', { class: 'actions' }, again, leave),
  );
  leave.focus();
}

/** Deletes a key if it is still as it was seen, after a question. Resolves to whether it is gone. */
export async function remove(key, seen) {
  const body = [
    h('p', {}, 'Delete this key?'),
    h('p', { class: 'mono block' }, escape(key)),
    h('p', { class: 'muted' }, `Deleted only if it is still at revision ${seen.mod_revision}.`),
  ];
  if (!(await confirm('Delete key', body, 'Delete'))) return false;
  try {
    const answer = await api.compareAndSet(key, seen, null);
    if (answer.done) {
      toast(`${escape(key)} was deleted at revision ${answer.revision}.`, 'good');
      return true;
    }
    if (!answer.pair) {
      toast('Somebody else has deleted it already.');
      return true;
    }
    toast(`Not deleted: it changed meanwhile, to revision ${answer.pair.mod_revision}.`, 'error');
  } catch (error) {
    toast(api.explain(error), 'error');
  }
  return false;
}

// The versions of a key, newest first, each found at the revision before the next.

import * as api from './api.js';
import { fromBase64, idToHex, size } from './bytes.js';
import { diffView } from './diff.js';
import { button, h, problemBox } from './dom.js';
import { comparable, valueView } from './value.js';

/** How many versions are fetched each time. */
const STEP = 5;

/**
 * The history of `key`, whose newest pair is `pair`. `restore(value)` opens the editor with an old
 * value; it is null where the key cannot be written.
 */
export function historyView(key, pair, restore, signal) {
  const versions = [pair];
  let end = null;
  const list = h('ol', { class: 'versions' });
  const problem = problemBox();
  const note = h('p', { class: 'muted' });
  const older = button('Older versions', load);
  const element = h('div', { class: 'history' }, list, problem.element, note, older);

  async function load() {
    older.disabled = true;
    problem.show('');
    try {
      for (let step = 0; step < STEP && end === null; step++) await loadOne();
    } catch (error) {
      if (api.isAborted(error)) return;
      problem.show(api.explain(error));
    }
    older.disabled = false;
    show();
  }

  async function loadOne() {
    const oldest = versions[versions.length - 1];
    const revision = BigInt(oldest.mod_revision) - 1n;
    if (revision < 1n) {
      end = 'This is where the store begins.';
      return;
    }
    try {
      const { pair: before } = await api.getPair(key, { revision, signal });
      if (before) versions.push(before);
      else end = `Created at revision ${oldest.mod_revision}; there was no such key just before.`;
    } catch (error) {
      if (!error.compacted) throw error;
      end = 'What is older was compacted.';
    }
  }

  function show() {
    const open = new Set(
      [...list.querySelectorAll('details[open]')].map((details) => details.dataset.revision),
    );
    list.replaceChildren(...versions.map((version, at) => row(version, at, open)));
    note.textContent = end ?? '';
    older.hidden = end !== null;
  }

  function row(version, at, open) {
    const before = versions[at + 1];
    const value = fromBase64(version.value);
    const details = h('details', { open: open.has(version.mod_revision) });
    details.dataset.revision = version.mod_revision;
    const facts = [
      `version ${version.version}${at === 0 ? ', now' : ''}`,
      size(value.length),
      version.lease && version.lease !== '0' ? `lease ${idToHex(version.lease)}` : null,
    ];
    details.append(
      h(
        'summary',
        {},
        h('span', { class: 'mono' }, `revision ${version.mod_revision}`),
        h('span', { class: 'muted' }, facts.filter(Boolean).join(' · ')),
      ),
    );
    const fill = () => {
      if (!details.open || details.childElementCount > 1) return;
      const parts = [];
      if (before) {
        parts.push(
          h('h4', {}, `Changes since revision ${before.mod_revision}`),
          diffView(...comparable(fromBase64(before.value), value)),
        );
      }
      parts.push(h('h4', {}, 'Value'), valueView(value, `Value at revision ${version.mod_revision}`));
      if (restore && at > 0) parts.push(button('Edit from this version…', () => restore(value)));
      details.append(h('div', { class: 'version' }, parts));
    };
    details.addEventListener('toggle', fill);
    fill();
    return h('li', {}, details);
  }

  show();
  load();
  return element;
}

// The versions of a key, newest first, each found at the revision before the next; and those of its
// earlier lives, before it was deleted and made again, back to the compaction.

import * as api from './api.js';
import { fromBase64, idToHex, size, toBase64 } from './bytes.js';
import { diffView } from './diff.js';
import { button, h, problemBox } from './dom.js';
import { comparable, valueView } from './value.js';

/** How many versions are fetched each time. */
const STEP = 5;
/** How many revisions are first looked through for a deletion; each time it is so many times more. */
const REACH = 64n;
const FARTHER = 8n;
/** So much silence ends a search of which no event tells that it is over. */
const IDLE_MS = 1_000;

/**
 * The last deletion of `key` between the revisions `from` and `before`: { deletion, compacted }, each
 * a revision or null. `compacted`: the search could only begin after that one. `made`: the key was
 * made at `before`, which ends the search; otherwise nothing may have happened to it since.
 */
async function deletionSince(key, from, { before, made }, signal) {
  const idle = new AbortController();
  let timer = null;
  const found = { deletion: null, compacted: null };
  for (let start = from; ; ) {
    const create = { key: toBase64(key), start_revision: String(start) };
    let again = null;
    try {
      const either = AbortSignal.any([signal, idle.signal]);
      for await (const answer of api.stream('watch', { create_request: create }, either)) {
        if (answer.canceled) {
          if (!answer.compact_revision) throw new Error(answer.cancel_reason || 'The member has ended the search.');
          again = BigInt(answer.compact_revision);
          break;
        }
        for (const event of answer.events ?? []) {
          if (BigInt(event.kv.mod_revision) >= before) return found;
          found.deletion = event.type === 'DELETE' ? event.kv.mod_revision : null;
        }
        clearTimeout(timer);
        if (!made) timer = setTimeout(() => idle.abort(), IDLE_MS);
      }
    } catch (error) {
      if (idle.signal.aborted && !signal.aborted) return found;
      throw error;
    } finally {
      clearTimeout(timer);
    }
    if (again === null) throw new Error('The member has ended the search.');
    found.compacted = again;
    start = again + 1n;
    if (start >= before) return found;
  }
}

/** The last deletion of `key` before the revision `before`, as [`deletionSince`] has it. */
async function lastDeletion(key, before, made, signal) {
  // Where nothing tells the end of a search, there is one.
  for (let reach = made ? REACH : before; ; reach *= FARTHER) {
    const from = before > reach ? before - reach : 1n;
    const found = await deletionSince(key, from, { before, made }, signal);
    if (found.deletion !== null || found.compacted !== null || from === 1n) return found;
  }
}

/**
 * The history of `key`, whose newest pair is `pair`; null when there is none at the revision `at`.
 * `restore(value)` opens the editor with an old value; it is null where the key cannot be written.
 */
export function historyView(key, pair, at, restore, signal) {
  const versions = pair ? [pair] : [];
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
    if (!oldest || oldest.version === '1') return loadDeletion(oldest);
    const revision = BigInt(oldest.mod_revision) - 1n;
    try {
      const { pair: before } = await api.getPair(key, { revision, signal });
      if (before) versions.push(before);
      else end = 'What is older is not there any more.';
    } catch (error) {
      if (!error.compacted) throw error;
      end = 'What is older was compacted.';
    }
  }

  /** Goes on with the life before, which ended with a deletion. `first`: the first of this one. */
  async function loadDeletion(first) {
    const before = first ? BigInt(first.mod_revision) : BigInt(at) + 1n;
    const { deletion, compacted } = await lastDeletion(key, before, Boolean(first), signal);
    if (deletion !== null) {
      versions.push({ deleted: true, mod_revision: deletion });
      return;
    }
    const made = first ? `Created at revision ${first.mod_revision}; ` : '';
    if (compacted !== null) end = `${made}what was before revision ${compacted} was compacted.`;
    else end = `${made}there was no such key before.`;
    end = end[0].toUpperCase() + end.slice(1);
  }

  function show() {
    const open = new Set(
      [...list.querySelectorAll('details[open]')].map((details) => details.dataset.revision),
    );
    list.replaceChildren(...versions.map((version, place) => row(version, place, open)));
    note.textContent = end ?? '';
    older.hidden = end !== null;
  }

  function row(version, place, open) {
    if (version.deleted) {
      return h(
        'li',
        { class: 'deletion' },
        h('span', { class: 'mono' }, `revision ${version.mod_revision}`),
        h('span', { class: 'tag deleted' }, 'deleted'),
      );
    }
    const before = versions[place + 1]?.deleted ? null : versions[place + 1];
    const value = fromBase64(version.value);
    const details = h('details', { open: open.has(version.mod_revision) });
    details.dataset.revision = version.mod_revision;
    const facts = [
      `version ${version.version}${version === pair ? ', now' : ''}`,
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
      if (restore && version !== pair) parts.push(button('Edit from this version…', () => restore(value)));
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

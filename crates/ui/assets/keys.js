// The browser of keys: those with a prefix, page by page, and one of them in full.

import * as api from './api.js';
import { escape, fromBase64, idToHex, keyAfter, prefixRange, size, toBase64, unescape } from './bytes.js';
import { button, copy, count, field, h, problemBox } from './dom.js';
import { edit, remove } from './editor.js';
import { historyView } from './history.js';
import { mayWrite, readable, session, writesAtAll } from './session.js';
import { valueView } from './value.js';

const PAGE = 100;
/** Above this many keys the list begins anew with the next page. */
const LISTED_MAX = 1_000;

export const title = 'Keys';

/** The address of a key, or of a search. */
export function link({ prefix, key, revision }) {
  const parameters = new URLSearchParams();
  if (prefix?.length) parameters.set('p', escape(prefix));
  if (key) parameters.set('k', escape(key));
  if (revision) parameters.set('r', revision);
  const query = parameters.toString();
  return `#/keys${query ? `?${query}` : ''}`;
}

function parse(parameters) {
  const bytes = (name) => {
    try {
      return unescape(parameters.get(name) ?? '');
    } catch {
      return new Uint8Array(0);
    }
  };
  const revision = parameters.get('r') ?? '';
  return {
    prefix: bytes('p'),
    key: parameters.has('k') ? bytes('k') : null,
    revision: /^[1-9]\d{0,18}$/.test(revision) ? revision : '',
  };
}

export function show(root, parameters, signal) {
  const view = new KeysView(root, signal);
  view.open(parse(parameters));
  return {
    update: (changed) => view.open(parse(changed)),
    shortcuts: {
      '/': () => view.search.focus(),
      n: () => view.create(),
      e: () => view.edit(),
      d: () => view.remove(),
      r: () => view.reload(),
      w: () => view.watch(),
      j: () => view.step(1),
      k: () => view.step(-1),
    },
  };
}

class KeysView {
  constructor(root, signal) {
    this.signal = signal;
    this.at = null;
    this.pair = null;
    this.loading = new AbortController();
    this.search = h('input', {
      type: 'search',
      class: 'mono',
      spellcheck: false,
      autocomplete: 'off',
      placeholder: 'all keys',
      name: 'prefix',
    });
    this.revision = h('input', {
      class: 'mono',
      inputMode: 'numeric',
      placeholder: 'now',
      name: 'revision',
      autocomplete: 'off',
    });
    this.problem = problemBox();
    this.summary = h('p', { class: 'muted', role: 'status' });
    this.heads = h('p', { class: 'keyheads', 'aria-hidden': 'true' }, h('span', {}, 'Key'), h('span', {}, 'Changed at'));
    this.list = h('ul', { class: 'keylist', 'aria-label': 'Keys' });
    this.list.addEventListener('keydown', (event) => this.arrow(event));
    this.hints = h('div', { class: 'hints' });
    this.more = button(`Next ${PAGE}`, () => this.loadMore());
    this.detail = h('section', { class: 'detail panel', 'aria-label': 'Key', tabIndex: -1 });
    const form = h(
      'form',
      { class: 'search', role: 'search', onsubmit: (event) => this.submit(event) },
      field('Prefix', this.search),
      field('At revision', this.revision),
      h('button', { type: 'submit', class: 'primary' }, 'Search'),
      writesAtAll() ? button('New key…', () => this.create(), { title: 'New key (n)' }) : null,
    );
    this.columns = h(
      'div',
      { class: 'columns' },
      h(
        'section',
        { class: 'panel listing', 'aria-label': 'List of keys' },
        this.summary,
        this.problem.element,
        this.hints,
        this.heads,
        this.list,
        this.more,
      ),
      this.detail,
    );
    root.append(h('h1', { class: 'visually-hidden' }, 'Keys'), form, this.columns);
  }

  submit(event) {
    event.preventDefault();
    try {
      const prefix = unescape(this.search.value);
      const revision = this.revision.value.trim();
      if (revision && !/^[1-9]\d{0,18}$/.test(revision)) throw new Error('A revision is a number above 0.');
      const next = link({ prefix, revision });
      if (next === location.hash) this.reload();
      else location.hash = next;
    } catch (error) {
      this.problem.show(error.message);
    }
  }

  /** Goes where the address says. Only what changed is loaded. */
  open(to) {
    const before = this.at;
    this.at = to;
    this.columns.classList.toggle('open', to.key !== null);
    const sameSearch = before && link({ ...before, key: null }) === link({ ...to, key: null });
    if (!sameSearch) {
      this.search.value = escape(to.prefix);
      this.revision.value = to.revision;
      this.loadList();
    }
    if (!sameSearch || link(before) !== link(to)) this.loadKey();
  }

  reload() {
    this.loadList();
    this.loadKey();
  }

  loadList() {
    this.loading.abort();
    this.loading = new AbortController();
    this.list.replaceChildren();
    this.hints.replaceChildren();
    this.heads.hidden = true;
    this.shown = 0;
    this.total = null;
    const { key, end } = prefixRange(this.at.prefix);
    this.from = key;
    this.end = end;
    this.more.hidden = true;
    return this.loadMore();
  }

  async loadMore() {
    const { signal } = this.loading;
    this.problem.show('');
    this.more.disabled = true;
    try {
      const request = {
        key: toBase64(this.from),
        range_end: toBase64(this.end),
        limit: String(PAGE),
        keys_only: true,
      };
      if (this.at.revision) request.revision = this.at.revision;
      const answer = await api.call('kv/range', request, signal);
      if (signal.aborted || this.signal.aborted) return;
      this.addPage(answer);
    } catch (error) {
      if (!api.isAborted(error) && !this.signal.aborted) this.refused(error);
    } finally {
      this.more.disabled = false;
    }
  }

  addPage(answer) {
    const pairs = answer.kvs ?? [];
    // The first page's count is of the whole range; those of later ones of what is left.
    this.total ??= Number(answer.count ?? 0);
    if (this.list.childElementCount + pairs.length > LISTED_MAX) this.list.replaceChildren();
    const items = pairs.map((pair) => this.item(pair));
    this.list.append(...items);
    this.shown += pairs.length;
    if (pairs.length) this.from = keyAfter(fromBase64(pairs[pairs.length - 1].key));
    this.more.hidden = !answer.more;
    const first = this.shown - this.list.childElementCount + 1;
    const range = this.shown === this.total && first === 1 ? '' : `${count(first)}–${count(this.shown)} of `;
    this.summary.textContent = this.total
      ? `${range}${count(this.total)} ${this.total === 1 ? 'key' : 'keys'} at revision ${this.at.revision || answer.header.revision}`
      : 'No keys here.';
    this.heads.hidden = this.list.childElementCount === 0;
    this.mark();
  }

  item(pair) {
    const key = fromBase64(pair.key);
    const anchor = h(
      'a',
      { href: link({ ...this.at, key }), tabIndex: -1 },
      h('span', { class: 'name mono' }, escape(key)),
      h('span', { class: 'muted', title: 'Revision of its last change' }, pair.mod_revision),
    );
    anchor.dataset.key = pair.key;
    return h('li', {}, anchor);
  }

  /** Marks the key that is open; one entry can be reached by Tab, the others by arrows. */
  mark() {
    const open = this.at.key && toBase64(this.at.key);
    let reachable = null;
    for (const anchor of this.list.querySelectorAll('a')) {
      const isOpen = anchor.dataset.key === open;
      if (isOpen) anchor.setAttribute('aria-current', 'true');
      else anchor.removeAttribute('aria-current');
      anchor.tabIndex = -1;
      if (isOpen || reachable === null) reachable = anchor;
    }
    if (reachable) reachable.tabIndex = 0;
  }

  arrow(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const anchors = [...this.list.querySelectorAll('a')];
    const at = anchors.indexOf(document.activeElement);
    const to = { Home: 0, End: anchors.length - 1 }[event.key] ?? (step ? at + step : null);
    if (to === null || !anchors[to]) return;
    event.preventDefault();
    for (const anchor of anchors) anchor.tabIndex = -1;
    anchors[to].tabIndex = 0;
    anchors[to].focus();
  }

  /** Opens the next key of the list, or the one before. */
  step(by) {
    const anchors = [...this.list.querySelectorAll('a')];
    const at = anchors.findIndex((anchor) => anchor.hasAttribute('aria-current'));
    const next = anchors[at < 0 ? 0 : at + by];
    if (!next) return;
    next.scrollIntoView({ block: 'nearest' });
    location.hash = next.getAttribute('href');
  }

  refused(error) {
    this.summary.textContent = '';
    this.problem.show(api.explain(error));
    if (!error.denied) return;
    const ranges = readable();
    if (ranges.length === 0) return;
    this.hints.replaceChildren(
      h('p', {}, `${session.user} may read:`),
      h(
        'ul',
        { class: 'plain' },
        ranges.map((range) => h('li', {}, h('a', { href: link({ prefix: range.prefix }), class: 'mono' }, range.text))),
      ),
    );
  }

  async loadKey() {
    const { key, revision } = this.at;
    this.pair = null;
    this.mark();
    this.keyLoading?.abort();
    this.keyLoading = new AbortController();
    const { signal } = this.keyLoading;
    if (key === null) {
      this.detail.replaceChildren(h('p', { class: 'empty' }, 'Choose a key to see its value.'));
      return;
    }
    try {
      const { pair, revision: now } = await api.getPair(key, { revision, signal });
      if (signal.aborted || this.signal.aborted) return;
      this.pair = pair;
      this.showKey(key, pair, revision || now, signal);
    } catch (error) {
      if (api.isAborted(error) || this.signal.aborted) return;
      this.detail.replaceChildren(this.head(key, []), h('p', { class: 'notice error', role: 'alert' }, api.explain(error)));
    }
  }

  head(key, actions) {
    const back = h('a', { class: 'back', href: link({ ...this.at, key: null }) }, '← All keys');
    const name = h('h2', { class: 'mono keyname', tabIndex: -1 }, escape(key));
    return h('div', { class: 'detail-head' }, back, name, h('div', { class: 'actions' }, actions));
  }

  /** `at`: the revision at which `pair` is what is there. */
  showKey(key, pair, at, signal) {
    const past = this.at.revision !== '';
    const writable = mayWrite(key);
    if (!pair) {
      const text = past ? `There was no such key at revision ${this.at.revision}.` : 'There is no such key.';
      const make = writable && !past ? [button('Create…', () => this.create(key))] : [];
      const revive = writable && !past ? (old) => this.create(key, old) : null;
      this.detail.replaceChildren(
        this.head(key, make),
        h('p', { class: 'empty' }, text),
        h('h3', {}, 'History'),
        historyView(key, null, at, revive, signal),
      );
      return;
    }
    const actions = [];
    if (writable && !past) {
      actions.push(
        button('Edit…', () => this.edit(), { title: 'Edit (e)' }),
        button('Delete…', () => this.remove(), { class: 'danger', title: 'Delete (d)' }),
      );
    }
    actions.push(h('a', { class: 'button', href: `#/watch?k=${encodeURIComponent(escape(key))}`, title: 'Watch (w)' }, 'Watch'));
    if (navigator.clipboard) {
      actions.push(button('Copy key', () => copy(escape(key), 'Key'), { class: 'quiet' }));
    }
    const notes = [];
    if (past) notes.push(h('p', { class: 'notice' }, `As it was at revision ${this.at.revision}: nothing can be changed here.`));
    else if (!writable) notes.push(h('p', { class: 'notice' }, `Read only: no role of ${session.user} may write this key.`));
    const value = fromBase64(pair.value);
    const restore = writable && !past ? (old) => this.edit(old) : null;
    this.detail.replaceChildren(
      this.head(key, actions),
      ...notes,
      facts(pair, value),
      valueView(value),
      h('h3', {}, 'History'),
      historyView(key, pair, at, restore, signal),
    );
  }

  /** `value`: what to begin with. */
  async create(key = null, value = undefined) {
    if (!writesAtAll()) return;
    const begin = key ?? (this.at.prefix.length ? this.at.prefix : null);
    const made = await edit({ key: begin, value });
    if (made) this.changed(made);
  }

  async edit(value) {
    if (!this.pair || this.at.revision || !mayWrite(this.at.key)) return;
    const seen = this.pair;
    const done = await edit({ key: this.at.key, seen, value: value ?? fromBase64(seen.value) });
    if (done) this.changed(done);
  }

  async remove() {
    if (!this.pair || this.at.revision || !mayWrite(this.at.key)) return;
    const gone = await remove(this.at.key, this.pair);
    if (gone) this.changed(null);
    else this.loadKey();
  }

  changed(key) {
    const next = link({ ...this.at, revision: '', key });
    this.loadList();
    if (next === location.hash) this.loadKey();
    else location.hash = next;
  }

  watch() {
    const { key, prefix } = this.at;
    location.hash = key
      ? `#/watch?k=${encodeURIComponent(escape(key))}`
      : `#/watch?p=${encodeURIComponent(escape(prefix))}`;
  }
}

function facts(pair, value) {
  const rows = [
    ['Created at', pair.create_revision],
    ['Changed at', pair.mod_revision],
    ['Version', pair.version],
    ['Size', size(value.length)],
  ];
  const lease = pair.lease && pair.lease !== '0' ? idToHex(pair.lease) : null;
  return h(
    'dl',
    { class: 'facts inline' },
    rows.map(([name, text]) => [h('dt', {}, name), h('dd', {}, text)]),
    lease ? [h('dt', {}, 'Lease'), h('dd', {}, h('a', { class: 'mono', href: `#/leases?id=${lease}` }, lease))] : null,
  );
}

// Leases: what is left of them, and which keys end with them.

import * as api from './api.js';
import { escape, fromBase64, idToHex } from './bytes.js';
import { button, confirm, count, duration, field, h, plural, poll, problemBox, table, toast } from './dom.js';
import { link } from './keys.js';

const PAGE = 50;
/** Questions about single leases that are under way at a time. */
const AT_ONCE = 6;
const KEYS_SHOWN_MAX = 100;

export const title = 'Leases';

export function show(root, parameters, signal) {
  const view = new LeasesView(root, signal);
  view.find(parameters.get('id'));
  return {
    update: (changed) => view.find(changed.get('id')),
    shortcuts: { r: () => view.load(), '/': () => view.filter.focus() },
  };
}

class LeasesView {
  constructor(root, signal) {
    this.signal = signal;
    this.ids = [];
    this.shown = PAGE;
    this.rows = new Map();
    this.filter = h('input', {
      type: 'search',
      class: 'mono',
      name: 'id',
      spellcheck: false,
      autocomplete: 'off',
      placeholder: 'any ID',
    });
    this.filter.addEventListener('input', () => this.arrange());
    this.problem = problemBox();
    this.summary = h('p', { class: 'muted', role: 'status' });
    this.table = table('Leases', [
      { label: 'Lease' },
      { label: 'Left' },
      { label: 'Granted' },
      { label: 'Keys' },
      { label: '', class: 'end' },
    ]);
    this.more = button(`Show ${PAGE} more`, () => {
      this.shown += PAGE;
      this.arrange();
      this.ask();
    });
    root.append(
      h('h1', { class: 'visually-hidden' }, 'Leases'),
      h(
        'form',
        { class: 'search', role: 'search', onsubmit: (event) => event.preventDefault() },
        field('Lease ID begins with', this.filter),
        button('Refresh', () => this.load(), { title: 'Refresh (r)' }),
      ),
      h('section', { class: 'panel', 'aria-label': 'Leases' }, this.summary, this.problem.element, this.table.element, this.more),
    );
    poll(() => this.load(), 5_000, signal);
    // What is left is counted down here; the member is asked now and then.
    const ticking = setInterval(() => this.tick(), 1_000);
    signal.addEventListener('abort', () => clearInterval(ticking));
  }

  find(id) {
    if (id === null) return;
    this.filter.value = id;
    this.arrange();
  }

  async load() {
    try {
      const answer = await api.call('lease/leases', {}, this.signal);
      this.ids = (answer.leases ?? []).map((lease) => lease.ID);
      this.problem.show('');
      this.loaded = true;
      this.arrange();
      await this.ask();
    } catch (error) {
      if (!api.isAborted(error)) this.problem.show(api.explain(error));
    }
  }

  matching() {
    const start = this.filter.value.trim().toLowerCase();
    return this.ids.filter((id) => idToHex(id).startsWith(start));
  }

  /** Puts rows where there are none, and takes away those of leases that are gone. */
  arrange() {
    const matching = this.matching();
    const wanted = matching.slice(0, this.shown);
    for (const [id, row] of this.rows) {
      if (wanted.includes(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    for (const id of wanted) {
      if (!this.rows.has(id)) this.rows.set(id, new LeaseRow(id, () => this.revoke(id)));
      const { element } = this.rows.get(id);
      if (!element.isConnected) this.table.body.append(this.table.label(element));
    }
    this.more.hidden = matching.length <= this.shown;
    this.table.element.hidden = wanted.length === 0;
    if (!this.loaded) return;
    const of = matching.length === this.ids.length ? '' : ` of ${count(this.ids.length)}`;
    this.summary.textContent = this.ids.length
      ? `${count(matching.length)}${of} ${this.ids.length === 1 ? 'lease' : 'leases'}`
      : 'There are no leases.';
  }

  async ask() {
    const waiting = [...this.rows.values()];
    const worker = async () => {
      for (let row = waiting.shift(); row; row = waiting.shift()) await row.ask(this.signal);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  tick() {
    for (const row of this.rows.values()) row.tick();
  }

  async revoke(id) {
    const row = this.rows.get(id);
    const keys = row?.keys ?? [];
    const body = [
      h('p', {}, 'Revoke lease ', h('span', { class: 'mono' }, idToHex(id)), '?'),
      h('p', {}, keys.length ? `${plural(keys.length, 'key')} will be deleted:` : 'It has no keys.'),
      h(
        'ul',
        { class: 'plain mono block' },
        keys.slice(0, 10).map((key) => h('li', {}, escape(key))),
        keys.length > 10 ? h('li', {}, `… and ${count(keys.length - 10)} more`) : null,
      ),
    ];
    if (!(await confirm('Revoke lease', keys.length ? body : body.slice(0, 2), 'Revoke'))) return;
    try {
      await api.call('lease/revoke', { ID: id });
      toast(`Lease ${idToHex(id)} was revoked.`, 'good');
    } catch (error) {
      toast(api.explain(error), 'error');
    }
    this.load();
  }
}

class LeaseRow {
  constructor(id, revoke) {
    this.id = id;
    this.keys = [];
    this.left = h('td', { class: 'left' });
    this.granted = h('td', { class: 'muted' });
    this.attached = h('td', {});
    this.bar = h('progress', { max: 1, value: 0, 'aria-label': 'Part of its time that is left' });
    this.text = h('span', {}, '…');
    this.left.append(this.bar, ' ', this.text);
    const hex = idToHex(id);
    this.element = h(
      'tr',
      {},
      h('th', { scope: 'row', class: 'mono' }, hex),
      this.left,
      this.granted,
      this.attached,
      h('td', { class: 'end' }, button('Revoke…', revoke, { class: 'danger', 'aria-label': `Revoke lease ${hex}` })),
    );
  }

  async ask(signal) {
    try {
      const answer = await api.call('lease/timetolive', { ID: this.id, keys: true }, signal);
      const ttl = Number(answer.TTL ?? 0);
      this.total = Number(answer.grantedTTL ?? 0);
      this.ends = ttl < 0 ? null : performance.now() + ttl * 1_000;
      this.granted.textContent = duration(this.total);
      this.showKeys((answer.keys ?? []).map(fromBase64));
      this.tick();
    } catch (error) {
      if (api.isAborted(error)) return;
      this.text.textContent = api.explain(error);
    }
  }

  tick() {
    if (this.ends === undefined) return;
    const left = this.ends === null ? -1 : (this.ends - performance.now()) / 1_000;
    this.text.textContent = left < 0 ? 'ends' : duration(left);
    this.bar.value = this.total ? Math.max(0, Math.min(1, left / this.total)) : 0;
  }

  showKeys(keys) {
    const same = keys.length === this.keys.length && keys.every((key, i) => escape(key) === escape(this.keys[i]));
    if (same && this.attached.childElementCount) return;
    this.keys = keys;
    if (keys.length === 0) {
      this.attached.replaceChildren(h('span', { class: 'muted' }, 'none'));
      return;
    }
    const entry = (key) => h('li', {}, h('a', { class: 'mono', href: link({ key }) }, escape(key)));
    const list = h('ul', { class: 'plain' }, keys.slice(0, KEYS_SHOWN_MAX).map(entry));
    if (keys.length > KEYS_SHOWN_MAX) list.append(h('li', { class: 'muted' }, `… and ${count(keys.length - KEYS_SHOWN_MAX)} more`));
    this.attached.replaceChildren(
      keys.length <= 3 ? list : h('details', {}, h('summary', {}, plural(keys.length, 'key')), list),
    );
  }
}

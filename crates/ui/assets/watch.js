// Changes as they happen, of one key or of all with a prefix.

import * as api from './api.js';
import { escape, fromBase64, idToHex, prefixRange, toBase64, unescape } from './bytes.js';
import { diffView } from './diff.js';
import { button, count, field, h, problemBox } from './dom.js';
import { link } from './keys.js';
import { comparable, preview, valueView } from './value.js';

/** How many events are kept, and how many wait while the list is held. */
const KEPT_MAX = 500;
const RETRY_MS = [500, 1_000, 2_000, 5_000];

export const title = 'Watch';

export function show(root, parameters, signal) {
  const view = new WatchView(root, signal);
  view.open(parameters);
  return {
    update: (changed) => view.open(changed),
    shortcuts: {
      '/': () => view.name.focus(),
      s: () => view.toggle(),
      p: () => view.hold(),
      c: () => view.clear(),
    },
  };
}

class WatchView {
  constructor(root, signal) {
    this.running = null;
    this.held = false;
    this.waiting = [];
    this.seen = 0;
    this.left = 0;
    signal.addEventListener('abort', () => this.running?.abort());
    this.name = h('input', { class: 'mono', name: 'key', spellcheck: false, autocomplete: 'off', placeholder: 'all keys' });
    this.exact = h('input', { type: 'checkbox', name: 'exact' });
    this.from = h('input', { class: 'mono', name: 'from', inputMode: 'numeric', placeholder: 'now', autocomplete: 'off' });
    this.start = h('button', { type: 'submit', class: 'primary', title: 'Start or stop (s)' }, 'Start');
    this.pause = button('Pause', () => this.hold(), { disabled: true, title: 'Pause or go on (p)' });
    this.problem = problemBox();
    this.state = h('p', { class: 'muted', role: 'status' }, 'Not started.');
    this.list = h('ol', { class: 'events', 'aria-label': 'Events, newest first' });
    const onsubmit = (event) => {
      event.preventDefault();
      this.toggle();
    };
    root.append(
      h('h1', { class: 'visually-hidden' }, 'Watch'),
      h(
        'form',
        { class: 'search', onsubmit },
        field('Prefix or key', this.name),
        h('label', { class: 'choice' }, this.exact, 'this key alone'),
        field('From revision', this.from),
        this.start,
        this.pause,
        button('Clear', () => this.clear(), { title: 'Clear (c)' }),
      ),
      h('section', { class: 'panel', 'aria-label': 'Events' }, this.state, this.problem.element, this.list),
    );
  }

  open(parameters) {
    const key = parameters.get('k');
    const given = key ?? parameters.get('p');
    if (given === null) return;
    this.name.value = given;
    this.exact.checked = key !== null;
    this.stop();
    this.begin();
  }

  toggle() {
    if (this.running) this.stop();
    else this.begin();
  }

  stop() {
    this.running?.abort();
  }

  hold() {
    if (!this.running && !this.held) return;
    this.held = !this.held;
    this.pause.textContent = this.held ? 'Go on' : 'Pause';
    if (!this.held) {
      const waiting = this.waiting;
      this.waiting = [];
      for (const event of waiting) this.add(event);
    }
    this.tell();
  }

  clear() {
    this.list.replaceChildren();
    this.waiting = [];
    this.seen = 0;
    this.left = 0;
    this.tell();
  }

  tell(text) {
    this.text = text ?? this.text ?? 'Not started.';
    const parts = [this.text];
    if (this.seen) parts.push(`${count(this.seen)} ${this.seen === 1 ? 'event' : 'events'}`);
    if (this.held) parts.push(`paused, ${count(this.waiting.length)} waiting`);
    if (this.left) parts.push(`the oldest ${count(this.left)} are not kept`);
    this.state.textContent = parts.join(' · ');
  }

  request() {
    const key = unescape(this.name.value);
    const from = this.from.value.trim();
    if (from && !/^[1-9]\d{0,18}$/.test(from)) throw new Error('A revision is a number above 0.');
    if (this.exact.checked && key.length === 0) throw new Error('Which key?');
    const range = this.exact.checked ? { key, end: null } : prefixRange(key);
    const create = { key: toBase64(range.key), prev_kv: true, progress_notify: true };
    if (range.end) create.range_end = toBase64(range.end);
    if (from) create.start_revision = from;
    return create;
  }

  begin() {
    let create;
    this.problem.show('');
    try {
      create = this.request();
    } catch (error) {
      this.problem.show(error.message);
      return;
    }
    const running = new AbortController();
    this.running = running;
    this.start.textContent = 'Stop';
    this.start.classList.remove('primary');
    this.pause.disabled = false;
    this.run(create, running.signal).finally(() => {
      // Another one may have begun meanwhile.
      if (this.running !== running) return;
      this.running = null;
      this.start.textContent = 'Start';
      this.start.classList.add('primary');
      if (this.held) this.hold();
      this.pause.disabled = true;
    });
  }

  /** Watches until told to stop; a lost connection is taken up where it ended. */
  async run(create, signal) {
    let failures = 0;
    this.tell('Starting…');
    for (;;) {
      try {
        for await (const answer of api.stream('watch', { create_request: create }, signal)) {
          failures = 0;
          if (answer.canceled) throw this.cancelled(answer);
          this.take(answer, create);
        }
        throw new api.ApiError(0, 14, 'The member has ended the watch.');
      } catch (error) {
        if (api.isAborted(error) || signal.aborted) return this.tell('Stopped.');
        if (!(error instanceof api.ApiError) || !error.unreachable) {
          this.problem.show(api.explain(error));
          return this.tell('Ended.');
        }
        this.tell(`${error.message} Trying again…`);
      }
      const pause = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, pause);
        signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
      });
      if (signal.aborted) return this.tell('Stopped.');
    }
  }

  cancelled(answer) {
    const compacted = answer.compact_revision;
    const reason = compacted
      ? `History before revision ${compacted} was compacted.`
      : answer.cancel_reason || 'The member has ended the watch.';
    return new api.ApiError(400, null, reason);
  }

  take(answer, create) {
    const revision = answer.header?.revision;
    if (answer.created) this.tell(`Watching since revision ${create.start_revision ?? revision}`);
    for (const event of answer.events ?? []) {
      this.seen++;
      const arrived = { ...event, at: new Date() };
      if (this.held) this.keepWaiting(arrived);
      else this.add(arrived);
    }
    // What comes after this is what is missing, should the connection end here.
    const from = answer.created && create.start_revision ? create.start_revision : null;
    if (revision && !from) create.start_revision = String(BigInt(revision) + 1n);
    this.tell();
  }

  keepWaiting(event) {
    this.waiting.push(event);
    if (this.waiting.length > KEPT_MAX) {
      this.waiting.shift();
      this.left++;
    }
  }

  add(event) {
    this.list.prepend(eventRow(event));
    while (this.list.childElementCount > KEPT_MAX) {
      this.list.lastChild.remove();
      this.left++;
    }
  }
}

function eventRow(event) {
  const pair = event.kv;
  const key = fromBase64(pair.key);
  const gone = event.type === 'DELETE';
  const made = !gone && pair.version === '1';
  const kind = gone ? 'deleted' : made ? 'created' : 'changed';
  const value = fromBase64(pair.value);
  const details = h('details', {});
  details.append(
    h(
      'summary',
      {},
      h('time', { class: 'muted', dateTime: event.at.toISOString() }, event.at.toLocaleTimeString('en-GB')),
      h('span', { class: `tag ${kind}` }, kind),
      h('span', { class: 'mono name' }, escape(key)),
      h('span', { class: 'mono muted preview' }, gone ? '' : preview(value)),
      h('span', { class: 'muted rev' }, pair.mod_revision),
    ),
  );
  details.addEventListener('toggle', () => {
    if (!details.open || details.childElementCount > 1) return;
    const parts = [h('p', {}, h('a', { href: link({ key }) }, 'Open the key'))];
    if (pair.lease && pair.lease !== '0') parts.push(h('p', { class: 'muted' }, `Lease ${idToHex(pair.lease)}`));
    if (event.prev_kv && !gone) {
      parts.push(h('h4', {}, 'Changes'), diffView(...comparable(fromBase64(event.prev_kv.value), value)));
    }
    if (gone && event.prev_kv) parts.push(h('h4', {}, 'It was'), valueView(fromBase64(event.prev_kv.value)));
    if (!gone) parts.push(h('h4', {}, 'Value'), valueView(value));
    details.append(h('div', { class: 'version' }, parts));
  });
  return h('li', {}, details);
}

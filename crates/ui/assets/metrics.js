// Metrics of this member over the last minutes, and all of them by name.

import * as api from './api.js';
import { size } from './bytes.js';
import { count, field, h, poll, problemBox, svg, table } from './dom.js';
import { buckets, parse, quantile, sum } from './prometheus.js';

const INTERVAL_MS = 2_000;
/** Ten minutes. */
const SAMPLES_MAX = 300;
const LISTED_MAX = 200;

export const title = 'Metrics';

const milliseconds = (seconds) => {
  const ms = seconds * 1_000;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
};
const perSecond = (value) => `${count(value >= 10 ? Math.round(value) : value)}/s`;
const whole = (value) => count(Math.round(value));
const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;

const gauge = (name) => ({ take: ({ values }) => sum(values, name) });
const rate = (name) => ({
  take: ({ values }) => sum(values, name),
  // A counter that is lower than before began anew with its process.
  between: (a, b, seconds) => (b >= a ? (b - a) / seconds : null),
});
const p99 = (name) => ({
  take: ({ values }) => buckets(values, name),
  between: (a, b) => quantile(a, b, 0.99),
});

const CHARTS = [
  { label: 'Proposals applied', format: perSecond, ...rate('etcd_server_proposals_applied_total') },
  { label: 'Puts', format: perSecond, ...rate('etcd_mvcc_put_total') },
  { label: 'Ranges', format: perSecond, ...rate('etcd_mvcc_range_total') },
  { label: 'Calls', format: perSecond, ...rate('grpc_server_started_total') },
  { label: 'Proposals pending', format: whole, ...gauge('etcd_server_proposals_pending') },
  { label: 'Log sync, p99', format: milliseconds, ...p99('etcd_disk_wal_fsync_duration_seconds') },
  { label: 'Store commit, p99', format: milliseconds, ...p99('etcd_disk_backend_commit_duration_seconds') },
  { label: 'Peer round trip, p99', format: milliseconds, ...p99('etcd_network_peer_round_trip_time_seconds') },
  { label: 'Store size', format: size, ...gauge('etcd_mvcc_db_total_size_in_bytes') },
  { label: 'Store in use', format: size, ...gauge('etcd_mvcc_db_total_size_in_use_in_bytes') },
  { label: 'Keys', format: whole, ...gauge('etcd_debugging_mvcc_keys_total') },
  { label: 'Watchers', format: whole, ...gauge('etcd_debugging_mvcc_watcher_total') },
  { label: 'Leases', format: whole, ...gauge('kvd_leases') },
  { label: 'Processor', format: percent, ...rate('process_cpu_seconds_total') },
  { label: 'Memory', format: size, ...gauge('process_resident_memory_bytes') },
  { label: 'Leader changes', format: whole, ...gauge('etcd_server_leader_changes_seen_total') },
];

/** What was seen so far; kept while other views are open. */
const history = CHARTS.map(() => ({ last: null, points: [] }));
let lastAt = null;
let latest = null;

function take(text) {
  const now = performance.now();
  const seconds = lastAt === null ? null : (now - lastAt) / 1_000;
  // After a pause a rate would be that of the pause; a new line begins.
  const fresh = seconds === null || seconds > 4 * (INTERVAL_MS / 1_000);
  latest = parse(text);
  CHARTS.forEach((chart, i) => {
    const kept = history[i];
    const raw = chart.take(latest);
    const value = !chart.between
      ? raw
      : fresh || raw === null || kept.last === null
        ? null
        : chart.between(kept.last, raw, seconds);
    kept.last = raw;
    kept.points.push(value);
    if (kept.points.length > SAMPLES_MAX) kept.points.shift();
  });
  lastAt = now;
}

const WIDTH = 240;
const HEIGHT = 44;

/** Lines through the points that are there; null makes a gap. */
function path(points, most, least) {
  const span = most - least || 1;
  const step = WIDTH / (Math.max(points.length, 30) - 1);
  const begin = WIDTH - step * (points.length - 1);
  let drawing = false;
  return points
    .map((value, i) => {
      if (value === null) {
        drawing = false;
        return '';
      }
      const x = (begin + i * step).toFixed(1);
      const y = (HEIGHT - 3 - ((value - least) / span) * (HEIGHT - 6)).toFixed(1);
      const command = drawing ? 'L' : 'M';
      drawing = true;
      return `${command}${x} ${y}`;
    })
    .join('');
}

/** A small chart without axes: its numbers stand beside it. */
function sparkline(points, label) {
  const known = points.filter((value) => value !== null);
  const most = Math.max(...known);
  // From zero, unless all of it happens far above.
  const lowest = Math.min(...known);
  const least = lowest > most * 0.5 && most - lowest < most * 0.2 ? lowest : 0;
  const line = path(points, most, least);
  return svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', class: 'spark', role: 'img', 'aria-label': label },
    svg('path', { d: line, class: 'spark-line', 'vector-effect': 'non-scaling-stroke' }),
  );
}

class Chart {
  constructor(chart, kept) {
    this.chart = chart;
    this.kept = kept;
    this.value = h('span', { class: 'chart-value' }, '–');
    this.range = h('span', { class: 'muted' });
    this.drawing = h('div', { class: 'chart-drawing' });
    this.element = h(
      'li',
      { class: 'chart panel' },
      h('div', { class: 'chart-head' }, h('h2', {}, chart.label), this.value),
      this.drawing,
      this.range,
    );
  }

  draw() {
    const { points } = this.kept;
    const known = points.filter((value) => value !== null);
    const { format, label } = this.chart;
    if (known.length === 0) {
      this.value.textContent = '–';
      this.range.textContent = points.length > 2 ? 'nothing happened' : 'measuring…';
      this.drawing.replaceChildren();
      return;
    }
    const last = points[points.length - 1];
    this.value.textContent = last === null ? '–' : format(last);
    const least = format(Math.min(...known));
    const most = format(Math.max(...known));
    this.range.textContent =
      known.length < 2 ? 'measuring…' : least === most ? 'steady' : `${least} to ${most}`;
    // What reads the same is drawn as the same: no mountains out of rounding.
    const drawn = least === most ? points.map((value) => (value === null ? null : 0)) : points;
    this.drawing.replaceChildren(sparkline(drawn, `${label}: ${least} to ${most}, now ${this.value.textContent}`));
  }
}

export function show(root, _parameters, signal) {
  const charts = CHARTS.map((chart, i) => new Chart(chart, history[i]));
  const problem = problemBox();
  const filter = h('input', { type: 'search', class: 'mono', name: 'metric', spellcheck: false, autocomplete: 'off', placeholder: 'all metrics' });
  const summary = h('p', { class: 'muted', role: 'status' });
  const all = table('All metrics', [{ label: 'Metric' }, { label: 'Labels' }, { label: 'Value', class: 'number' }]);
  const list = () => {
    if (!latest) return;
    const wanted = filter.value.trim().toLowerCase();
    const rows = [];
    let matching = 0;
    for (const [name, series] of latest.values) {
      if (name.endsWith('_bucket') || !name.toLowerCase().includes(wanted)) continue;
      const family = name.replace(/_(sum|count)$/, '');
      const words = latest.help.get(name) ?? latest.help.get(family);
      for (const { labels, value } of series) {
        matching++;
        if (rows.length >= LISTED_MAX) continue;
        const text = Object.entries(labels).map(([label, of]) => `${label}=${of}`).join(' ');
        rows.push(h('tr', {}, h('th', { scope: 'row', class: 'mono', title: words }, name), h('td', { class: 'mono muted' }, text), h('td', { class: 'number mono' }, String(value))));
      }
    }
    all.body.replaceChildren(...rows);
    summary.textContent = `${count(matching)} series${rows.length < matching ? `, the first ${count(rows.length)} shown` : ''}; buckets of histograms are left out`;
  };
  filter.addEventListener('input', list);
  const details = h(
    'details',
    { class: 'panel all-metrics', ontoggle: list },
    h('summary', {}, 'All metrics of this member'),
    field('Name contains', filter),
    summary,
    all.element,
  );
  root.append(
    h('h1', { class: 'visually-hidden' }, 'Metrics'),
    problem.element,
    h('p', { class: 'muted lead' }, 'This member, every two seconds while this view is open; ten minutes at most.'),
    h('ul', { class: 'charts', 'aria-label': 'Metrics' }, charts.map((chart) => chart.element)),
    details,
  );
  for (const chart of charts) chart.draw();
  poll(
    async () => {
      try {
        take(await api.getText('metrics', signal));
        problem.show('');
        for (const chart of charts) chart.draw();
        if (details.open) list();
      } catch (error) {
        if (!api.isAborted(error)) problem.show(api.explain(error));
      }
    },
    INTERVAL_MS,
    signal,
  );
  return {
    shortcuts: {
      '/': () => {
        details.open = true;
        filter.focus();
      },
    },
  };
}

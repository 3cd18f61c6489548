// Metrics in Prometheus' text format, and numbers made of them.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: '\n', '"': '"', '\\': '\\' };

/** { values: Map(name -> [{ labels, value }]), help: Map(family -> text) }. */
export function parse(text) {
  const values = new Map();
  const help = new Map();
  for (const line of text.split('\n')) {
    if (line.startsWith('# HELP ')) {
      const [, family, words] = /^# HELP (\S+) ?(.*)$/.exec(line) ?? [];
      if (family) help.set(family, words);
      continue;
    }
    const match = line.startsWith('#') ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => ESCAPES[char] ?? char);
    }
    const series = values.get(match[1]) ?? [];
    series.push({ labels, value: number(match[3]) });
    values.set(match[1], series);
  }
  return { values, help };
}

function number(text) {
  if (text === '+Inf') return Infinity;
  if (text === '-Inf') return -Infinity;
  return Number(text);
}

/** The sum over all series of a metric; null when there is none. */
export function sum(values, name) {
  const series = values.get(name);
  return series ? series.reduce((total, { value }) => total + value, 0) : null;
}

/** The buckets of a histogram, summed over its series: [[upper bound, count so far]]. */
export function buckets(values, name) {
  const counts = new Map();
  for (const { labels, value } of values.get(`${name}_bucket`) ?? []) {
    const bound = number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** The quantile of what was observed between two looks; null when nothing was. */
export function quantile(before, after, q) {
  const earlier = new Map(before);
  const grown = after.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const total = grown.length ? grown[grown.length - 1][1] : 0;
  // Fewer than before: the member was started anew.
  if (total <= 0) return null;
  const rank = q * total;
  let lower = 0;
  let below = 0;
  for (const [bound, count] of grown) {
    if (count >= rank) {
      if (bound === Infinity) return lower;
      const inside = count - below;
      return inside > 0 ? lower + ((bound - lower) * (rank - below)) / inside : bound;
    }
    lower = bound;
    below = count;
  }
  return null;
}

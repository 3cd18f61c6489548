// All members as the one that is reached sees them, what is wrong, and what will be done about it.

import * as api from './api.js';
import { size } from './bytes.js';
import { count, duration, h, plural, poll, problemBox, table } from './dom.js';
import { signIn } from './session.js';

const INTERVAL_MS = 2_000;

export const title = 'Cluster';

const COLUMNS = [
  { label: 'Member' },
  { label: 'Role' },
  { label: 'Health' },
  { label: 'Lag', class: 'number' },
  { label: 'Applied', class: 'number' },
  { label: 'Committed', class: 'number' },
  { label: 'Term', class: 'number' },
  { label: 'Store' },
  { label: 'Version' },
];

const ALARMS = {
  NOSPACE: 'The store is full: writes are refused. Compact, defragment, then kvctl alarm disarm.',
  CORRUPT: 'The members do not hold the same data: writes are refused. Replace the member that differs.',
};

export function show(root, _parameters, signal) {
  const view = new ClusterView(root);
  poll(() => view.load(signal), INTERVAL_MS, signal);
  return { shortcuts: { r: () => view.load(signal) } };
}

class ClusterView {
  constructor(root) {
    this.problem = problemBox();
    this.summary = h('dl', { class: 'summary' });
    this.alarms = h('section', { class: 'panel alarmed', 'aria-label': 'Alarms', hidden: true });
    this.members = table('Members', COLUMNS);
    this.checks = h('ul', { class: 'checks' });
    this.autopilot = h('section', { class: 'panel', 'aria-label': 'Autopilot', hidden: true });
    this.urls = new Map();
    this.told = h(
      'div',
      { class: 'stack', hidden: true },
      this.summary,
      this.alarms,
      h('section', { class: 'panel', 'aria-label': 'Members' }, h('h2', {}, 'Members'), this.members.element),
      this.autopilot,
    );
    const body = h(
      'div',
      { class: 'stack' },
      this.told,
      h('section', { class: 'panel', 'aria-label': 'Checks' }, h('h2', {}, 'Checks of this member'), this.checks),
    );
    root.append(h('h1', { class: 'visually-hidden' }, 'Cluster'), this.problem.element, body);
  }

  async load(signal) {
    await Promise.all([this.loadMembers(signal), this.loadChecks(signal), this.loadAutopilot(signal)]);
  }

  async loadMembers(signal) {
    try {
      const cluster = await api.getJson('v1/members', signal);
      this.problem.show('');
      await this.learnUrls(cluster, signal);
      this.showCluster(cluster);
      this.told.hidden = false;
    } catch (error) {
      if (api.isAborted(error)) return;
      // The banner says it already, and since when.
      this.problem.show(error.unreachable ? '' : this.refusal(error));
      if (error.needsUser) this.told.hidden = true;
      if (error.needsUser && api.port.gateway) this.problem.element.append(' ', signInButton());
    }
  }

  refusal(error) {
    if (!error.needsUser) return api.explain(error);
    return api.port.gateway
      ? 'Who are you? How the members are is told to users.'
      : 'How the members are is told to users, who sign in on the client port.';
  }

  /** Where the members' clients go; asked for only when there is a member that is not known. */
  async learnUrls(cluster, signal) {
    if (!api.port.gateway || cluster.members.every((member) => this.urls.has(member.id))) return;
    try {
      const answer = await api.call('cluster/member/list', { linearizable: false }, signal);
      for (const member of cluster.members) this.urls.set(member.id, []);
      for (const member of answer.members ?? []) {
        this.urls.set(BigInt(member.ID).toString(16), member.clientURLs ?? []);
      }
    } catch (error) {
      if (api.isAborted(error)) throw error;
      // A learner does not answer this; the table is without links then.
      for (const member of cluster.members) this.urls.set(member.id, []);
    }
  }

  showCluster(cluster) {
    const byName = (a, b) => (a.name || '~').localeCompare(b.name || '~', 'en', { numeric: true });
    const members = cluster.members.toSorted(byName);
    const voters = members.filter((member) => member.role !== 'learner');
    const answering = voters.filter((member) => member.version !== undefined);
    const spare = answering.length - (Math.floor(voters.length / 2) + 1);
    const leader = members.find((member) => member.id === cluster.leader_id);
    const newest = Math.max(0, ...members.map((member) => member.revision ?? 0));
    const facts = [
      ['Members', `${answering.length} of ${voters.length} answer`, answering.length < voters.length ? 'warn' : ''],
      ['Quorum', margin(spare, voters.length), spare < 0 ? 'bad' : spare === 0 && voters.length > 2 ? 'warn' : ''],
      ['Leader', leader ? leader.name || leader.id : 'none', leader ? '' : 'bad'],
      ['Alarms', cluster.alarms.length || 'none', cluster.alarms.length ? 'bad' : ''],
      ['Revision', count(newest), ''],
      ['Cluster', cluster.cluster_id, 'mono'],
    ];
    this.summary.replaceChildren(
      ...facts.map(([name, text, kind]) => h('div', {}, h('dt', {}, name), h('dd', { class: kind }, text))),
    );
    this.showAlarms(cluster);
    this.members.body.replaceChildren(
      ...members.map((member) => this.members.label(this.row(member, cluster))),
    );
  }

  showAlarms({ alarms, members }) {
    this.alarms.hidden = alarms.length === 0;
    const list = alarms.map(({ member_id: id, alarm }) => {
      const name = members.find((member) => member.id === id)?.name || id;
      return h('li', {}, h('strong', {}, alarm), ` raised by ${name}. `, ALARMS[alarm] ?? '');
    });
    this.alarms.replaceChildren(h('h2', {}, 'Alarms'), h('ul', { class: 'plain', role: 'alert' }, list));
  }

  row(member, cluster) {
    const known = member.version !== undefined;
    const here = member.id === cluster.member_id;
    const name = h(
      'th',
      { scope: 'row' },
      h('div', { class: 'member' }, this.memberLink(member), here ? h('span', { class: 'tag' }, 'this one') : null),
      h('div', { class: 'mono muted small' }, member.id),
    );
    const cell = (text, kind) => h('td', { class: kind }, known ? text : '–');
    const patch = member.version === member.kvd_version ? '' : ` (kvd ${member.kvd_version})`;
    return h(
      'tr',
      {},
      name,
      h('td', {}, h('span', { class: `tag role-${member.role}` }, member.role)),
      h('td', {}, health(member)),
      cell(count(member.lag ?? 0), `number${member.lag > 1_000 ? ' warn' : ''}`),
      cell(count(member.raft_applied_index ?? 0), 'number'),
      cell(count(member.raft_index ?? 0), 'number'),
      cell(count(member.raft_term ?? 0), 'number'),
      h('td', {}, known ? store(member) : '–'),
      cell(`${member.version}${patch}`),
    );
  }

  /** Leads to the member's own page. An URL is whatever a member said: only the web's count. */
  memberLink(member) {
    const name = member.name || 'not started';
    const url = (this.urls.get(member.id) ?? []).find((text) => /^https?:\/\//.test(text) && URL.canParse(text));
    if (!url) return h('span', {}, name);
    return h('a', { href: new URL('/ui/', url).href, rel: 'noreferrer', title: `${url}/ui/` }, name);
  }

  async loadChecks(signal) {
    try {
      const { text } = await api.probe('readyz?verbose', signal);
      const lines = text.split('\n').filter((line) => /^\[[+-]\]/.test(line));
      this.checks.replaceChildren(
        ...lines.map((line) => {
          const good = line.startsWith('[+]');
          const [, name, words] = /^\[.\](\S+) ?(.*)$/.exec(line) ?? [null, line, ''];
          return h('li', {}, state(good), ' ', name.replaceAll('_', ' '), good ? '' : `: ${words}`);
        }),
      );
    } catch (error) {
      if (!api.isAborted(error)) this.checks.replaceChildren(h('li', {}, state(false), ' ', api.explain(error)));
    }
  }

  async loadAutopilot(signal) {
    if (!api.port.autopilot) return;
    try {
      showAutopilot(this.autopilot, await api.getJson('v1/autopilot', signal));
      this.autopilot.hidden = false;
    } catch (error) {
      if (!api.isAborted(error)) this.autopilot.hidden = true;
    }
  }
}

function signInButton() {
  return h('button', { type: 'button', onclick: () => signIn() }, 'Sign in…');
}

function margin(spare, voters) {
  if (spare < 0) return 'lost: writes and linearizable reads fail';
  if (voters === 1) return 'one member, no spare';
  if (spare === 0) return 'no member may fail now';
  return `${spare} more may fail`;
}

/** Health by shape, word and colour. */
function state(good) {
  return h('span', { class: `state ${good ? 'good' : 'bad'}`, role: 'img', 'aria-label': good ? 'good' : 'failed' }, good ? '●' : '▲');
}

function health(member) {
  if (member.healthy) return [state(true), ' healthy'];
  const problems = member.problems.length ? member.problems.join('; ') : 'not healthy';
  return [state(false), ' ', h('span', { class: 'bad' }, problems)];
}

function store(member) {
  const quota = member.db_size_quota;
  const text = `${size(member.db_size)}, ${size(member.db_size_in_use)} in use`;
  if (!(quota > 0)) return text;
  const part = member.db_size / quota;
  const label = `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} % of the quota of ${size(quota)}`;
  const bar = h('meter', { min: 0, max: 1, high: 0.8, optimum: 0, value: part, title: label, 'aria-label': label });
  return [bar, ' ', text];
}

/** The panel of autopilot: what it wants, what it will do next and why, and what it has done. */
function showAutopilot(panel, status) {
  const rows = [['State', status.enabled ? status.phase : 'off: members are added and removed by hand']];
  if (status.reason) rows.push(['Why', status.reason]);
  if (status.desired_replicas !== null && status.desired_replicas !== undefined) {
    const source = status.desired_source ? ` by ${status.desired_source}` : '';
    rows.push(['Wanted', `${plural(status.desired_replicas, 'member')}${source}`]);
  }
  if (status.desired_error) rows.push(['Not readable', status.desired_error]);
  if (status.enabled) rows.push(['Next', status.next ? deed(status.next) : 'nothing to do']);
  const list = (name, entries) => {
    if (entries?.length) rows.push([name, h('ul', { class: 'plain' }, entries.map((entry) => h('li', {}, entry)))]);
  };
  list('Held back', status.held?.map(({ member, reason }) => `${member}: ${reason}`));
  list('Done', status.actions?.slice(0, 5).map(done));
  panel.replaceChildren(
    h('h2', {}, 'Autopilot'),
    h('dl', { class: 'facts' }, rows.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])),
  );
}

function deed({ action, member, reason }) {
  return `${action} ${member}${reason ? `: ${reason}` : ''}`;
}

function done(action) {
  const failed = action.error ? `, failed: ${action.error}` : '';
  return `${duration((action.age_ms ?? 0) / 1_000)} ago: ${deed(action)}${failed}`;
}

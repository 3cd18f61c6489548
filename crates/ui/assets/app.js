// The frame around the views: where one is, who one is, how the member is, and the keyboard.

import * as api from './api.js';
import * as cluster from './cluster.js';
import { button, h, openDialog, poll } from './dom.js';
import * as keys from './keys.js';
import * as leases from './leases.js';
import * as metrics from './metrics.js';
import { begin, mayAsk, session, showUser, signIn } from './session.js';
import * as watch from './watch.js';

/** `data`: needs the gateway, which a port for monitoring alone has not. */
const VIEWS = [
  { name: 'cluster', view: cluster },
  { name: 'keys', view: keys, data: true },
  { name: 'watch', view: watch, data: true },
  { name: 'leases', view: leases, data: true },
  { name: 'metrics', view: metrics },
];

const HEALTH_MS = 5_000;
const THEMES = ['system', 'light', 'dark'];
const ICONS = { system: '◐', light: '☀', dark: '☾' };

const at = (id) => document.getElementById(id);
const main = at('main');
let current = null;

function views() {
  return VIEWS.filter((one) => !one.data || api.port.gateway);
}

/** Goes where the address says. A view that is open already is told of the change. */
function route(again = false) {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const wanted = views().find((one) => one.name === path) ?? views()[0];
  const parameters = new URLSearchParams(query);
  if (current?.name === wanted.name && current.shown?.update && !again) {
    current.shown.update(parameters);
    return;
  }
  current?.leaving.abort();
  mayAsk();
  const leaving = new AbortController();
  main.replaceChildren();
  main.dataset.view = wanted.name;
  current = { name: wanted.name, leaving };
  current.shown = wanted.view.show(main, parameters, leaving.signal);
  document.title = `${wanted.view.title} · kvd`;
  for (const link of at('nav').children) {
    if (link.dataset.view === wanted.name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function showNavigation() {
  at('nav').replaceChildren(
    ...views().map(({ name, view }, i) => {
      const link = h('a', { href: `#/${name}`, title: `${view.title} (${i + 1})` }, view.title);
      link.dataset.view = name;
      return link;
    }),
  );
}

function showSession() {
  const element = at('user');
  element.hidden = !session.auth || !api.port.gateway;
  element.textContent = session.user ?? 'Sign in';
  element.title = session.user ? 'Who am I, sign out' : 'Sign in';
}

/** Called when somebody signed in or out, or the session was lost. */
function sessionChanged(again) {
  showSession();
  // What is being edited stays as it is.
  if (!again || document.querySelector('dialog[open]')) return;
  showWhere();
  route(true);
}

let silentSince = null;

function answered(ok) {
  if (ok) silentSince = null;
  else silentSince ??= Date.now();
  const banner = at('banner');
  if (banner.hidden === ok) return;
  banner.hidden = ok;
  if (ok) return;
  const time = new Date(silentSince).toLocaleTimeString('en-GB');
  banner.textContent = `This member does not answer since ${time}. What is shown may be old; it is asked again.`;
  setHealth('bad', 'no answer');
}

function setHealth(kind, text) {
  const element = at('health');
  if (element.textContent === text) return;
  element.className = `pill ${kind}`;
  element.textContent = text;
}

async function lookAtHealth() {
  try {
    const { status, text } = await api.probe('health');
    if (status === 200) return setHealth('good', 'healthy');
    let reason = text.trim();
    try {
      reason = JSON.parse(text).reason || reason;
    } catch {
      // The text as it is.
    }
    setHealth('bad', reason);
  } catch {
    setHealth('bad', 'no answer');
  }
}

async function showWhere() {
  try {
    const { member_id: id, members } = await api.getJson('v1/members');
    const own = members.find((member) => member.id === id);
    at('where').textContent = own?.name || id;
    at('where').title = `This page is served by member ${id}`;
  } catch {
    // Told to users; the host says it as well.
    at('where').textContent = location.host;
  }
}

function theme() {
  return document.documentElement.dataset.theme ?? 'system';
}

function setTheme(name) {
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === 'system') localStorage.removeItem('kvd.theme');
    else localStorage.setItem('kvd.theme', name);
  } catch {
    // Storage may be forbidden: then it lasts as long as the page.
  }
  showTheme();
}

function showTheme() {
  const element = at('theme');
  element.textContent = ICONS[theme()];
  element.title = `Theme: ${theme()} (t)`;
  element.setAttribute('aria-label', `Theme: ${theme()}. Change`);
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
}

const SHORTCUTS = [
  ['1 … 5', 'the views, from left to right'],
  ['/', 'to the search field'],
  ['?', 'this help'],
  ['t', 'theme: system, light, dark'],
  ['r', 'load again'],
  ['Esc', 'close a dialog, leave a field'],
];
const VIEW_SHORTCUTS = {
  Keys: [
    ['j, k', 'next key, key before'],
    ['n', 'new key'],
    ['e', 'edit'],
    ['d', 'delete'],
    ['w', 'watch'],
    ['Ctrl Enter', 'review, in the editor'],
  ],
  Watch: [
    ['s', 'start, stop'],
    ['p', 'pause, go on'],
    ['c', 'clear'],
  ],
};

function showHelp() {
  if (document.querySelector('dialog[open]')) return;
  const dialog = openDialog('Help');
  const list = (rows) =>
    h('dl', { class: 'shortcuts' }, rows.map(([key, text]) => [h('dt', {}, h('kbd', {}, key)), h('dd', {}, text)]));
  dialog.content.append(
    h('h3', {}, 'Everywhere'),
    list(SHORTCUTS),
    ...(api.port.gateway
      ? Object.entries(VIEW_SHORTCUTS).flatMap(([name, rows]) => [h('h3', {}, name), list(rows)])
      : []),
    h('h3', {}, 'Good to know'),
    h('p', {}, 'The page is a client of the one member that it came from, and may do what its user may do.'),
    h('p', {}, 'Bytes that are no text are written \\xNN, in names and in search. A change is made only if the key is still as you saw it.'),
    h('p', { class: 'muted' }, `kvd ${api.port.version}`),
    h('div', { class: 'actions' }, button('Close', () => dialog.close(), { class: 'primary' })),
  );
  dialog.content.querySelector('.actions button').focus();
}

function isTyping(target) {
  return target.closest?.('input:not([type=checkbox], [type=radio]), textarea, select') !== null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector('dialog[open]')) return;
  if (isTyping(event.target)) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  const number = Number(event.key);
  const view = Number.isInteger(number) && number > 0 ? views()[number - 1] : null;
  const act = view
    ? () => {
        location.hash = `#/${view.name}`;
      }
    : { '?': showHelp, t: nextTheme, ...current?.shown?.shortcuts }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

async function start() {
  showTheme();
  at('theme').addEventListener('click', nextTheme);
  at('help').addEventListener('click', showHelp);
  at('skip').addEventListener('click', () => main.focus());
  at('user').addEventListener('click', () => (session.user ? showUser() : signIn()));
  document.addEventListener('keydown', onKey);
  api.listen({ answered });
  while (!(await loadPort())) await new Promise((resolve) => setTimeout(resolve, 2_000));
  await begin(sessionChanged);
  showNavigation();
  showSession();
  window.addEventListener('hashchange', () => route());
  route();
  showWhere();
  poll(lookAtHealth, HEALTH_MS, new AbortController().signal);
}

async function loadPort() {
  try {
    await api.loadPort();
    return true;
  } catch {
    return false;
  }
}

start();

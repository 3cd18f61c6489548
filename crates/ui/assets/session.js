// Who uses the page. The token lives in memory, and in sessionStorage so that a reload keeps it:
// it is gone with the tab.

import * as api from './api.js';
import { button, field, h, openDialog, problemBox } from './dom.js';
import { allows, describe, toPermission } from './permissions.js';

const STORED = 'kvd.session';

/** `user` is null while nobody is signed in. `permissions` is null where they are not known. */
export const session = { auth: false, user: null, roles: [], root: false, permissions: null };

let changed = () => {};
let asking = null;
/** Who has left the form is not asked again by every call that goes on in the background. */
let declined = false;

function store(value) {
  try {
    if (value) sessionStorage.setItem(STORED, JSON.stringify(value));
    else sessionStorage.removeItem(STORED);
  } catch {
    // Storage may be forbidden: then the token is gone with the page.
  }
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? 'null');
  } catch {
    return null;
  }
}

/** Whether a user may write a key; true where it is not known, since the member decides. */
export function mayWrite(key) {
  if (!session.auth || session.root || session.permissions === null) return true;
  return allows(session.permissions, 'write', key);
}

/** Whether there is any key that the user may write, as far as that is known. */
export function writesAtAll() {
  if (!session.auth || session.root || session.permissions === null) return true;
  return session.permissions.some((one) => one.kind !== 'READ');
}

/** What the user may read, to choose from where a whole range is refused. */
export function readable() {
  return (session.permissions ?? [])
    .filter((one) => one.kind !== 'WRITE')
    .map(describe)
    .filter((range) => range.prefix !== null);
}

function forget() {
  api.setToken(null);
  store(null);
  Object.assign(session, { user: null, roles: [], root: false, permissions: null });
}

/** Asks whether auth is on, and takes up the session of before a reload. */
export async function begin(onChange) {
  changed = onChange;
  api.listen({ signIn: (error) => lost(error) });
  if (!api.port.gateway) return;
  await look();
  const kept = session.auth ? stored() : null;
  if (kept?.token) {
    api.setToken(kept.token);
    await adopt(kept.user);
  }
}

async function look() {
  try {
    session.auth = (await api.call('auth/status')).enabled === true;
  } catch {
    // A member that is not reached says nothing; calls will tell.
  }
}

async function adopt(user) {
  session.user = user;
  await learn();
}

/** Roles and permissions of the user, as far as they are told. */
async function learn() {
  const { user } = session;
  try {
    const { roles = [] } = await api.call('auth/user/get', { name: user });
    session.roles = roles;
    session.root = roles.includes('root');
    // Root's role has no permissions that could be listed.
    const named = session.root ? [] : roles;
    const answers = await Promise.all(named.map((role) => api.call('auth/role/get', { role })));
    session.permissions = answers.flatMap((answer) => (answer.perm ?? []).map(toPermission));
  } catch {
    // Refusals are shown where they matter.
  }
}

/** A call was refused for want of a user: the token ran out, or auth was turned on. */
function lost(error) {
  if (asking) return;
  const had = session.user !== null;
  forget();
  session.auth = true;
  changed();
  if (declined) return;
  const reason = had ? 'Your session has ended. Please sign in again.' : '';
  signIn(/user name is empty/.test(error.message) ? '' : reason);
}

/** The reader went somewhere else: a refusal there may ask again. */
export function mayAsk() {
  declined = false;
}

/** Shows the form; resolves when somebody signed in, or left it. */
export function signIn(reason = '') {
  asking ??= form(reason).finally(() => {
    asking = null;
  });
  return asking;
}

async function form(reason) {
  const dialog = openDialog('Sign in', { class: 'narrow' });
  const user = h('input', { name: 'user', autocomplete: 'username', required: true });
  const password = h('input', {
    name: 'password',
    type: 'password',
    autocomplete: 'current-password',
    required: true,
  });
  user.autocapitalize = 'none';
  user.spellcheck = false;
  const problem = problemBox();
  const submit = h('button', { type: 'submit', class: 'primary' }, 'Sign in');
  const onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.show('');
    try {
      await authenticate(user.value, password.value);
      dialog.close(true);
    } catch (error) {
      problem.show(api.explain(error));
      password.select();
    } finally {
      submit.disabled = false;
    }
  };
  dialog.content.append(
    h(
      'form',
      { onsubmit },
      reason ? h('p', { class: 'notice' }, reason) : null,
      h('p', { class: 'muted' }, 'This cluster has users. The page can do what its user may do.'),
      field('User', user),
      field('Password', password),
      problem.element,
      h('div', { class: 'actions' }, button('Cancel', () => dialog.close(false)), submit),
    ),
  );
  user.focus();
  const done = await dialog.closed;
  declined = !done;
  if (done) changed(true);
}

async function authenticate(name, password) {
  api.setToken(null);
  const { token } = await api.call('auth/authenticate', { name, password });
  api.setToken(token);
  store({ user: name, token });
  await adopt(name);
}

export function signOut() {
  forget();
  changed(true);
}

/** Who am I, and what may I do. */
export async function showUser() {
  const dialog = openDialog('Signed in', { class: 'narrow' });
  const list = (session.permissions ?? []).map((one) =>
    h('li', {}, h('span', { class: 'tag' }, one.kind.toLowerCase()), ' ', describe(one).text),
  );
  const rights = session.root
    ? h('p', {}, 'The role root allows everything.')
    : list.length
      ? h('ul', { class: 'plain' }, list)
      : h('p', { class: 'muted' }, 'No permissions are known.');
  const out = button('Sign out', () => dialog.close('out'), { class: 'danger' });
  dialog.content.append(
    h(
      'dl',
      { class: 'facts' },
      h('dt', {}, 'User'),
      h('dd', {}, session.user),
      h('dt', {}, 'Roles'),
      h('dd', {}, session.roles.join(', ') || 'none'),
    ),
    h('h3', {}, 'Permissions'),
    rights,
    h('div', { class: 'actions' }, button('Close', () => dialog.close()), out),
  );
  if ((await dialog.closed) === 'out') signOut();
}

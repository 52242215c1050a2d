// Two example answers before and after, and the run itself: what was resolved, in which units, from which code.

const examples = () => {
  const list = (summary.examples || []).filter((example) => example && typeof example === 'object');
  if (!list.length) return;
  const answer = (name, side) => side && h('div', { class: `side ${name}` },
    h('header', {}, h('b', {}, name), isNumber(side.reward) && badge(`reward ${num(side.reward)}`, side.reward > 0 ? 'good' : 'warn')), h('pre', {}, asText(side.text)));
  section('examples', 'Example answers', null, list.map(({ task = {}, before: was, after: is }) => h('article', { class: 'card example' },
    h('p', { class: 'facts' }, [task.source && words(task.source), task.id !== undefined && `task ${task.id}`].filter(Boolean).map((f) => h('span', {}, f))),
    h('pre', { class: 'prompt' }, messageText(task.prompt)),
    task.answer !== undefined && task.answer !== null && h('p', { class: 'answer' }, h('span', {}, 'answer'), h('code', {}, asText(task.answer))),
    h('div', { class: 'sides' }, answer('before', was), answer('after', is)))));
};

const facts2 = (entries) => h('dl', { class: 'pairs' }, entries.map(([key, value]) => [h('dt', {}, key), h('dd', {}, value instanceof Node ? value : asText(value))]));
const flatten = (value, prefix = '') => Object.entries(value || {}).flatMap(([key, item]) =>
  (item && typeof item === 'object' && !Array.isArray(item) ? flatten(item, `${prefix}${key} `) : [[prefix + key, item]]));

// A part is shown by its class; its fields are rows, and parts among them open in turn.
const part = (name, value, open) => {
  if (value === null || typeof value !== 'object') return h('div', { class: 'fieldrow' }, h('span', {}, name), h('code', {}, asText(value)));
  const { class: path, ...fields } = value, list = Array.isArray(value), plainList = list && value.every((v) => v === null || typeof v !== 'object');
  if (plainList) return h('div', { class: 'fieldrow' }, h('span', {}, name), h('code', {}, value.length ? value.map(asText).join(', ') : 'none'));
  const entries = list ? value.map((v, i) => [String(i + 1), v]) : Object.entries(fields), kind = path ? String(path).split('.').pop() : '';
  const label = [h('span', {}, name), kind && h('b', { title: path }, kind), !kind && list && h('small', {}, plural(value.length, 'part'))];
  if (!entries.length) return h('div', { class: 'fieldrow leafpart' }, label);
  return h('details', { class: 'part', open }, h('summary', {}, label), path && h('p', { class: 'path' }, path), entries.map(([key, v]) => part(key, v, list)));
};

const theRun = () => {
  if (!Object.keys(run).length) return;
  const resolved = Object.entries(run.resolved || {});
  const tree = h('div', { class: 'resolved' }, resolved.map(([key, value]) => part(key, value, false)));
  const all = (open) => () => tree.querySelectorAll('details').forEach((d) => { d.open = open; });
  const argv = Array.isArray(run.argv) ? run.argv.join(' ') : '';
  const code = run.code || {}, known = ['recipe', 'argv', 'seed', 'created', 'versions', 'code', 'machine', 'resolved', 'units'];
  const card = (title, entries) => entries.length > 0 && h('div', { class: 'card facts-card' }, h('h3', {}, title), facts2(entries));
  section('run', 'The run', null,
    argv !== '' && h('pre', { class: 'command' }, argv),
    h('div', { class: 'grid' },
      card('Batch arithmetic', flatten(run.units)),
      card('Code and versions', [...(code.revision ? [['revision', `${String(code.revision).slice(0, 12)}${code.dirty ? ' with local changes' : ''}`]] : []), ...flatten(run.versions)]),
      card('Machine', flatten(run.machine)), card('More', flatten(Object.fromEntries(Object.entries(run).filter(([key]) => !known.includes(key)))))),
    resolved.length > 0 && h('div', { class: 'card' }, h('div', { class: 'controls' }, h('h3', {}, 'Resolved parts'), button('open all', all(true)), button('close all', all(false))), tree));
};

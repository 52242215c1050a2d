// The head of the page: what was run, what it gained, and the table before and after.

const run = data.run, summary = data.summary;
const before = summary.before, after = summary.after, gain = summary.difference;
const lastOf = (key) => curve(key)?.y.at(-1);
const lastStep = () => summary.steps ?? data.steps.at(-1);
const totalSeconds = () => summary.seconds ?? (curve('timing_s/step') && AXES.seconds.at(Infinity));
const score = (side, task) => (task ? side?.tasks?.[task]?.['pass@1'] : side?.['pass@1']);
const spread = (side, task) => (task ? side?.tasks?.[task]?.interval : side?.interval);

const facts = () => {
  const created = run.created ? new Date(run.created) : null;
  const planned = run.resolved?.steps, done = lastStep();
  return [
    isNumber(done) && (data.finished || !isNumber(planned) ? plural(done, 'step') : `${done} of ${plural(planned, 'step')}`),
    isNumber(totalSeconds()) && duration(totalSeconds()),
    isNumber(run.seed) && `seed ${run.seed}`,
    created && !Number.isNaN(created.getTime()) && created.toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' }),
    data.name !== run.recipe && data.name,
  ].filter(Boolean);
};

// A line of two dots with their intervals, in shares of one common 0–100% axis.
const dumbbell = (from, fromInterval, to, toInterval) => {
  const at = (v) => `${100 * Math.max(0, Math.min(1, v))}%`;
  const whisker = (pair, kind) => Array.isArray(pair) && pair.every(isNumber)
    && h('i', { class: `whisker ${kind}`, style: { left: at(pair[0]), width: at(pair[1] - pair[0]) } });
  const both = isNumber(from) && isNumber(to);
  const label = both ? `from ${percent(from)} to ${percent(to)}` : percent(from ?? to);
  return h('div', { class: `dumbbell ${both && to < from ? 'down' : ''}`, role: 'img', 'aria-label': label },
    both && h('i', { class: 'span', style: { left: at(Math.min(from, to)), width: at(Math.abs(to - from)) } }),
    whisker(fromInterval, 'was'), whisker(toInterval, 'is'),
    isNumber(from) && h('i', { class: 'dot was', style: { left: at(from) } }),
    isNumber(to) && h('i', { class: 'dot is', style: { left: at(to) } }));
};
const scale = () => h('div', { class: 'scale', 'aria-hidden': 'true' },
  [0, 25, 50, 75, 100].map((v) => h('span', { style: { left: `${v}%` } }, `${v}%`)));

const headline = () => {
  const from = score(before), to = score(after), difference = gain?.['pass@1'] ?? (isNumber(from) && isNumber(to) ? to - from : null);
  if (!isNumber(difference)) return runningHeadline(from);
  return h('div', { class: 'headline' },
    h('div', { class: 'gain' },
      h('span', { class: 'big' }, points(difference)), h('span', { class: 'unit' }, 'points of held-out pass@1'),
      gain?.interval && h('small', {}, `95% interval ${interval(gain.interval, points)}`, gain.method && ` · ${gain.method}`)),
    h('div', { class: 'fromto' },
      h('p', {}, h('span', { class: 'was' }, h('b', {}, percent(from)), ' before'), h('span', { class: 'is' }, h('b', {}, percent(to)), ' after')),
      dumbbell(from, spread(before), to, spread(after)), scale()));
};
const runningHeadline = (from) => {
  const evaluated = curve('eval/pass@1'), now = evaluated ? evaluated.y.at(-1) : lastOf('reward');
  if (!isNumber(now)) return null;
  const start = evaluated ? (isNumber(from) ? from : evaluated.y[0]) : curve('reward').y[0];
  const text = evaluated ? percent : num;
  return h('div', { class: 'headline' }, h('div', { class: 'gain' },
    h('span', { class: 'big' }, text(now)), h('span', { class: 'unit' }, evaluated ? 'held-out pass@1, so far' : 'mean reward, so far'),
    h('small', {}, `from ${text(start)} at the start`)));
};

const tiles = () => {
  const tokens = summary.tokens ?? lastOf('num_tokens'), speed = curve('perf/tokens_per_s');
  const mean = (c) => c.y.reduce((a, b) => a + b, 0) / c.y.length;
  const tile = (name, value, note) => value !== '–' && h('div', { class: 'tile' }, h('dt', {}, name), h('dd', {}, value, note && h('small', {}, note)));
  const moved = (key, text) => curve(key) && `from ${text(curve(key).y[0])}`;
  return h('dl', { class: 'tiles' },
    tile('Reward', num(lastOf('reward')), moved('reward', num)),
    tile('Zero-signal groups', percent(lastOf('frac_reward_zero_std')), moved('frac_reward_zero_std', percent)),
    tile('Mean length', num(lastOf('completions/mean_length')), moved('completions/mean_length', num)),
    tile('Entropy', num(lastOf('entropy')), moved('entropy', num)),
    tile('Tokens', isNumber(tokens) ? short(tokens) : '–'),
    tile('Tokens per second', speed ? short(mean(speed)) : '–', speed && 'mean'));
};

// Where the time went: each moment is counted once.
const STAGES = ['sampling', 'tools', 'reward', 'stages', 'update', 'sync', 'evaluation', 'other'];
const spentOn = (stage) => summary.spent?.[stage] ?? (summary.spent ? 0 : (curve(`timing_s/spent/${stage}`)?.y ?? []).reduce((a, b) => a + b, 0));
const timeBudget = () => {
  const spent = STAGES.map((stage, i) => [stage, spentOn(stage), stage === 'other' ? 'var(--slate)' : hue(i)]).filter(([, seconds]) => seconds > 0);
  const all = spent.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (!(all > 0)) return null;
  return h('div', { class: 'budget' },
    h('div', { class: 'spent', role: 'img', 'aria-label': `time: ${spent.map(([stage, s]) => `${stage} ${percent(s / all)}`).join(', ')}` },
      spent.map(([stage, s, c]) => h('i', { style: { 'flex-grow': s / all, '--c': c }, title: `${stage}: ${duration(s)}` }))),
    h('ul', {}, spent.map(([stage, s, c]) => h('li', { 'data-stage': stage }, h('i', { style: { '--c': c } }), h('span', {}, stage), h('b', {}, percent(s / all)), h('small', {}, duration(s))))));
};

const hero = () => {
  const state = data.finished ? badge('finished', 'good') : badge('unfinished', 'warn');
  const notes = data.notes.concat(!data.finished && !Object.keys(summary).length && data.steps.length
    ? ['No summary.json yet: the run is still going, or was stopped. This page shows what it has recorded.'] : []);
  document.querySelector('main').append(h('section', { class: 'hero', id: 'start' },
    h('h1', {}, run.recipe || data.name, ' ', state),
    h('p', { class: 'facts' }, facts().map((fact) => h('span', {}, fact))),
    headline(), tiles(), timeBudget(),
    notes.length > 0 && h('ul', { class: 'note' }, notes.map((note) => h('li', {}, note)))));
};

// ---- the table

const taskNames = () => {
  const names = Object.keys({ ...before?.tasks, ...after?.tasks });
  const trained = (name) => (after?.tasks?.[name] ?? before?.tasks?.[name])?.trained !== false;
  return names.sort((a, b) => trained(b) - trained(a));
};
const atMost = (side, name, key) => {
  const value = side?.tasks?.[name]?.[key];
  if (!value || typeof value !== 'object') return isNumber(value) ? ['', value] : null;
  const best = Object.keys(value).map(Number).filter(isNumber).sort((a, b) => b - a)[0];
  return best === undefined ? null : [String(best), value[best]];
};
const whole = (v) => `${Math.round(100 * v)}%`;
const bounds = (pair) => (Array.isArray(pair) && pair.every(isNumber) ? pair.map((v) => (100 * v).toFixed(1)).join('–') : '');
// Columns beyond pass@1: name, how to read a side, how to write it. A column that no task has is not shown.
const EXTRA = [
  ['pass@k', (s, n) => atMost(s, n, 'pass@k')?.[1], whole],
  ['maj@k', (s, n) => atMost(s, n, 'maj@k')?.[1], whole],
  ['length', (s, n) => s?.tasks?.[n]?.mean_length, num],
  ['format failures', (s, n) => s?.tasks?.[n]?.format_failures, (v) => (v <= 1 ? whole(v) : num(v))],
];
const extraName = (name, names) => {
  const key = name === 'pass@k' || name === 'maj@k' ? name : null;
  const k = key && names.map((n) => atMost(after ?? before, n, key)?.[0]).find(Boolean);
  return k ? name.replace('k', k) : name;
};

const resultRow = (name, extras) => {
  const from = score(before, name), to = score(after, name);
  const info = name ? after?.tasks?.[name] ?? before?.tasks?.[name] : null;
  const difference = (name ? gain?.tasks?.[name] : gain) ?? {};
  const delta = isNumber(difference) ? difference : difference['pass@1'] ?? (isNumber(from) && isNumber(to) ? to - from : null);
  const kind = isNumber(delta) ? (delta > 0 ? 'up' : delta < 0 ? 'down' : '') : '';
  return h('tr', { class: name ? '' : 'total' },
    h('th', { scope: 'row' }, name ? h('span', { class: 'name' }, words(name)) : 'mean of tasks', ' ',
      info && (info.trained === false ? badge('held out', 'held') : info.trained === true && badge('trained'))),
    h('td', { class: 'plotcell' }, dumbbell(from, spread(before, name), to, spread(after, name))),
    cell('before', percent(from), bounds(spread(before, name))), cell('after', percent(to), bounds(spread(after, name))),
    cell('change', points(delta), interval(difference.interval, points), `delta ${kind}`),
    extras.map(([label, read, text]) => {
      const [a, b] = name ? [read(before, name), read(after, name)] : [];
      const shown = [a, b].filter(isNumber).map((v) => text(v));
      return cell(label, shown.length > 1 ? `${shown[0]} → ${shown[1]}` : shown[0] ?? '–', '', 'extra');
    }));
};
const cell = (label, value, note, kind = '') =>
  h('td', { class: `figure ${kind}`, 'data-label': label }, h('span', {}, value), note && h('small', {}, note));

const results = () => {
  const names = taskNames();
  if (!names.length) return;
  const extras = EXTRA.filter(([, read]) => names.some((n) => isNumber(read(before, n)) || isNumber(read(after, n))))
    .map(([name, read, text]) => [extraName(name, names), read, text]);
  const head = ['task', scale(), 'before', 'after', 'change', ...extras.map(([name]) => name)];
  const held = names.filter((n) => (after?.tasks?.[n] ?? before?.tasks?.[n])?.trained === false).length;
  section('results', 'Before and after',
    `Pass@1 on held-out problems of ${plural(names.length, 'task')}${held ? `, ${held} of which the run never trained on` : ''}. Bars are 95% intervals.`,
    h('div', { class: 'scroll' }, h('table', { class: 'results' },
      h('thead', {}, h('tr', {}, head.map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, names.map((name) => resultRow(name, extras)), names.length > 1 && resultRow(null, extras)))));
};

// What happened in this run, in sentences: each with its evidence, the chart and the recorded answers, and a lever.

const found = data.diagnosis || { findings: [], silent: [], unchecked: {}, reliability: {}, coverage: {}, cost: {} };
const quantity = (x) => (isNumber(x) && x >= 1e4 ? short(x) : num(x));
const MEASURES = {
  reliability: {
    answers: ['answers', quantity], judged: ['judged', percent], verifier_compared: ['judged a second time', quantity],
    verifier_disagreement: ['judged otherwise then', percent], evaluated: ['answers in the last evaluation', quantity],
    half_interval: ['its pass@1 is known to', (v) => `±${points(v).replace('+', '')} points`], format_failures: ['did not end by themselves', percent],
  },
  coverage: {
    seen: ['tasks seen', quantity], pool: ['tasks there are', quantity], solved: ['solved at least once', quantity],
    never_solved: ['seen and never solved', quantity], distinct: ['attempts that differ', percent], pass_k: ['pass@k at the end', percent],
  },
  cost: {
    sampled_tokens: ['tokens sampled', short], trained_tokens: ['tokens trained', short], scored_tokens: ['tokens scored', short],
    judge_tokens: ['tokens of judges', short], tool_calls: ['tool calls', short], forward_flops: ['FLOPs forward', short],
    backward_flops: ['FLOPs backward', short], evaluation_flops: ['FLOPs of evaluations', short], tokens_per_pass: ['tokens for an answer that passes', quantity],
    idle: ['no model at work', duration], tail: ['waiting for the last tenth', duration],
  },
};

// Names of options and parts stand in backticks.
const marked = (text) => String(text).split('`').map((piece, i) => (i % 2 ? h('code', { class: piece.startsWith('--') ? 'opt' : '' }, piece) : piece));

const goTo = (element) => {
  element.scrollIntoView({ block: 'center', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  element.classList.remove('pointed');
  requestAnimationFrame(() => element.classList.add('pointed'));
};
const chartOf = (key) => [...charts].find((chart) => chart.series.some((s) => s.key === key));
const showChart = (key, step) => {
  const chart = chartOf(key);
  if (chart) { view.hover = step; redraw(); goTo(chart.card); return; }
  const all = document.querySelector('details.everything');
  const row = [...(all?.querySelectorAll('.curverow') ?? [])].find((r) => r.querySelector('.key').textContent === key);
  if (!row) return;
  all.open = true;
  if (row.getAttribute('aria-pressed') !== 'true') row.click();
  goTo(all.querySelector('.pinned figure:last-child') ?? row);
};
const recordedNear = (step) => data.episodes.reduce((best, snapshot, i) =>
  (best === null || Math.abs(snapshot.step - step) < Math.abs(data.episodes[best].step - step) ? i : best), null);
const showAnswers = (i) => {
  const group = document.querySelector('#rollouts .choice[aria-label="Recorded step"]');
  group?.querySelector(`button[value="${i}"]`)?.click();
  goTo(document.getElementById('rollouts'));
};

const finding = (f) => {
  const [, last] = f.steps, near = recordedNear(last);
  return h('article', { class: `card finding ${f.level}` },
    h('h3', {}, badge(f.level, f.level === 'alarm' ? 'warn' : ''), ' ', f.name),
    h('p', { class: 'said' }, f.sentence),
    h('p', { class: 'lever' }, marked(f.lever)),
    f.also.length > 0 && h('p', { class: 'also' }, `This also explains: ${f.also.join(', ')}.`),
    h('p', { class: 'evidence' },
      h('span', {}, `${f.samples}; fires at ${num(f.limit)}, here ${num(f.value)}`),
      curve(f.chart) && button('see the curve', () => showChart(f.chart, last), { class: 'quiet' }),
      near !== null && button(`see answers of step ${data.episodes[near].step}`, () => showAnswers(near), { class: 'quiet' })));
};
const measures = (title, kind) => {
  const rows = Object.entries(MEASURES[kind]).filter(([key]) => isNumber(found[kind][key])).map(([key, [name, text]]) =>
    [key === 'pass_k' && found[kind].k ? name.replace('k', found[kind].k) : name, text(found[kind][key])]);
  return rows.length > 0 && h('div', { class: 'card facts-card' }, h('h3', {}, title), facts2(rows));
};

const happened = () => {
  if (!data.steps.length) return;
  const silent = h('details', { class: 'quietly' }, h('summary', {}, `Looked for in vain: ${plural(found.silent.length, 'pathology', 'pathologies')}`),
    h('p', {}, found.silent.join(', ')),
    Object.keys(found.unchecked).length > 0 && h('p', {}, `Could not be looked for, for want of what is in brackets: ${Object.entries(found.unchecked).map(([name, what]) => `${name} (${what})`).join(', ')}.`));
  section('happened', 'What happened in this run', null,
    found.findings.length ? h('div', { class: 'findings' }, found.findings.map(finding))
      : h('p', { class: 'lead' }, 'Nothing out of the ordinary.'),
    silent, h('div', { class: 'grid three' }, measures('Reliability', 'reliability'), measures('Coverage', 'coverage'), measures('Cost', 'cost')));
};

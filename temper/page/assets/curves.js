// Learning curves: the ones every run is judged by, then everything that was logged.

const keysLike = (pattern) => Object.keys(data.curves).filter((key) => pattern.test(key));
const lines = (keys, name = (key) => key, first = 0) =>
  keys.filter(curve).map((key, i) => ({ label: name(key), points: pairs(key), color: hue(first + i), key }));
const plain = (key) => key.replace(/^.*\//, '');
const inner = (key) => words(key.split('/').slice(1, -1).join('/') || key);
const around = (mean, std) => (curve(mean) && curve(std)
  ? pairs(mean).map(([x, y], i) => [x, y - curve(std).y[i], y + curve(std).y[i]]).filter((p) => isNumber(p[1])) : []);
const ribbonOf = (low, high) => (curve(low) && curve(high) && curve(low).x.length === curve(high).x.length
  ? pairs(low).map(([x, y], i) => [x, y, curve(high).y[i]]) : []);

const rewardSpec = () => {
  const parts = keysLike(/^rewards\/.+\/mean$/).filter((key, _, all) => all.length > 1 || !curve('reward'));
  return { title: 'Reward', hint: 'mean, and one standard deviation', band: around('reward', 'reward_std'),
    series: [...lines(['reward']), ...lines(parts, inner, 1)] };
};
const passSpec = () => {
  const tasks = keysLike(/^eval\/.+\/pass@1$/);
  const series = [...lines(['eval/pass@1'], () => 'mean of tasks'), ...lines(tasks, inner, 1).map((s) => ({ ...s, faint: true }))];
  return { title: 'Held-out pass@1', hint: 'at the evaluation steps', text: percent, bounds: [0], series: series.map((s) => ({ ...s, marks: true })) };
};
const timeSpec = () => {
  const once = keysLike(/^timing_s\/spent\//);  // each moment counted once: nothing is left to guess
  if (once.length) return { title: 'Time per step', hint: 'seconds, by stage', stack: true, text: (v) => `${num(v)} s`, series: lines(once, plain) };
  const stages = keysLike(/^timing_s\//).filter((key) => key !== 'timing_s/step');
  const series = lines(stages, plain);
  if (curve('timing_s/step') && stages.every((k) => curve(k).y.length === curve('timing_s/step').y.length)) {
    const rest = pairs('timing_s/step').map(([x, y], i) => [x, Math.max(0, y - stages.reduce((sum, k) => sum + curve(k).y[i], 0))]);
    const share = rest.reduce((sum, p) => sum + p[1], 0) / (pairs('timing_s/step').reduce((sum, p) => sum + p[1], 0) || 1);
    if (share > 0.01) series.push({ label: 'other', points: rest, color: 'var(--slate)' });
  }
  return { title: 'Time per step', hint: 'seconds, by stage', stack: true, text: (v) => `${num(v)} s`, series };
};
const one = (title, keys, options = {}) => ({ title, series: lines(keys, options.name || (keys.length > 1 ? words : () => title.toLowerCase())), ...options });

const MAIN = () => [
  rewardSpec(),
  passSpec(),
  one('Zero-signal share', ['frac_reward_zero_std'], { hint: 'groups with one reward throughout', text: percent, bounds: [0] }),
  one('Length', ['completions/mean_length'], { hint: 'tokens: mean, least to most', band: ribbonOf('completions/min_length', 'completions/max_length') }),
  one('Truncated share', ['completions/clipped_ratio'], { hint: 'cut at the length limit', text: percent, bounds: [0] }),
  one('Entropy', ['entropy'], { hint: 'nats per sampled token', bounds: [0] }),
  one('KL', ['kl'], { hint: 'to the reference policy' }),
  one('Loss', ['loss']),
  one('Gradient norm', ['grad_norm'], { hint: 'before clipping', bounds: [0] }),
  one('Clipped share', keysLike(/^clip_ratio\//), { hint: 'tokens outside the trust region', text: percent, name: (k) => words(plain(k)) }),
  one('Learning rate', ['learning_rate'], { bounds: [0], exact: true }),
  one('Reward by source', keysLike(/^by_source\/.+\/reward$/), { hint: 'training tasks', name: inner }),
  one('Sampler mismatch', ['sampling/mismatch_kl'], { hint: 'KL of the sampler against the learner' }),
  timeSpec(),
  one('Throughput', ['perf/tokens_per_s'], { hint: 'sampled tokens per second', bounds: [0] }),
].map((spec) => ({ ...spec, series: spec.series.filter((s) => s.points.length) })).filter((spec) => spec.series.length);

const curves = () => {
  if (!Object.keys(data.curves).length) return;
  const grid = h('div', { class: 'grid' }), specs = MAIN();
  specs.forEach((spec) => grid.append(new Chart(spec).card));
  const smooth = h('input', { type: 'range', min: 0, max: 0.95, step: 0.05, value: view.smooth, id: 'smooth',
    oninput: (e) => { view.smooth = Number(e.target.value); redraw(); } });
  const axes = Object.entries(AXES).map(([key, axis]) => [key, axis.name]);
  section('curves', 'Learning curves', null,
    h('div', { class: 'controls' },
      h('label', { for: 'smooth' }, 'Smoothing', smooth),
      axes.length > 1 && h('span', { class: 'field' }, 'Against', choice('Horizontal axis', axes, view.axis, (axis) => { view.axis = axis; redraw(); })),
      h('span', { class: 'hint' }, 'Point at a chart, or focus it and use the arrow keys; names switch lines on and off.')),
    grid, everything(grid, new Set(specs.flatMap((spec) => spec.series.map((s) => s.key)))));
};

// ---- every curve, by prefix, searchable; a click opens one as a chart

const everything = (grid, above) => {
  const keys = Object.keys(data.curves).sort(), open = new Map();
  const families = new Map();
  keys.forEach((key) => {
    const family = key.includes('/') ? key.slice(0, key.indexOf('/')) : 'general';
    if (!families.has(family)) families.set(family, []);
    families.get(family).push(key);
  });
  const toggle = (key, row) => {
    if (open.has(key)) { open.get(key).remove(); open.delete(key); } else {
      const chart = new Chart({ title: key, series: [{ label: plain(key), points: pairs(key), color: 'var(--accent)' }] });
      open.set(key, chart);
      pinned.append(chart.card);
    }
    row.setAttribute('aria-pressed', String(open.has(key)));
  };
  const rowOf = (key) => {
    const row = button('', () => toggle(key, row), { class: 'curverow', 'aria-pressed': 'false', title: above.has(key) ? 'Also drawn above' : '' });
    row.append(h('span', { class: 'key' }, key), spark(curve(key).y), h('span', { class: 'value' }, num(lastOf(key))));
    return row;
  };
  const pinned = h('div', { class: 'grid pinned' });
  const lists = [...families].sort((a, b) => (b[0] === 'general') - (a[0] === 'general')).map(([family, members]) =>
    h('div', { class: 'family' }, h('h3', {}, family), members.map(rowOf)));
  const none = h('p', { class: 'empty', hidden: true }, 'No curve has that name.');
  const search = h('input', { type: 'search', placeholder: 'Search curves', 'aria-label': 'Search curves', oninput: () => {
    const wanted = search.value.toLowerCase().split(/\s+/);
    let found = 0;
    lists.forEach((list) => {
      let any = false;
      list.querySelectorAll('.curverow').forEach((row) => {
        row.hidden = !wanted.every((w) => row.querySelector('.key').textContent.toLowerCase().includes(w));
        if (!row.hidden) { any = true; found += 1; }
      });
      list.hidden = !any;
    });
    none.hidden = found > 0;
  } });
  return h('details', { class: 'everything' }, h('summary', {}, `All ${keys.length} curves`), search, pinned, none, h('div', { class: 'families' }, lists));
};
const spark = (ys) => {
  const list = ys.length > 80 ? ys.filter((_, i) => i % Math.ceil(ys.length / 80) === 0) : ys;
  const lo = Math.min(...list), hi = Math.max(...list), f = (v) => (hi > lo ? 17 - (15 * (v - lo)) / (hi - lo) : 9);
  const d = list.length > 1 ? line(list.map((v, i) => [i, v]), (i) => 1 + (68 * i) / (list.length - 1), f) : 'M1 9L69 9';
  return svg('svg', { class: 'spark', width: 70, height: 18, 'aria-hidden': 'true' }, svg('path', { d }));
};

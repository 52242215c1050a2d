// How a whole distribution moves: steps across, values up, share of attempts as shade; beside it the chosen step alone.

const NAMES = { 'hist/reward': ['Reward', 'share of attempts at each reward'], 'hist/length': ['Length', 'sampled tokens per attempt'],
  'perf/attempt_s': ['Duration', 'seconds per attempt'] };

class HeatMap {
  constructor(key, chosen) {
    this.items = data.histograms[key];
    [this.title, this.hint] = NAMES[key] || [key.replace(/^hist\//, ''), ''];
    this.when = h('span', { class: 'when' });
    this.plot = h('div', { class: 'plot', onpointerdown: (e) => this.pick(e, chosen), onpointermove: (e) => e.buttons && this.pick(e, chosen) });
    const tools = h('span', { class: 'tools' }, ['svg', 'png'].map((kind) =>
      button(kind, () => saveChart(this.plot.querySelector('svg'), `${this.title} distribution`, [], kind), { title: `Save as ${kind.toUpperCase()}` })));
    this.card = h('figure', { class: 'card chart heat' },
      h('figcaption', {}, h('div', {}, h('span', { class: 'title' }, this.title), this.when), h('div', {}, h('small', {}, this.hint), tools)), this.plot);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  at(step) { return this.items.reduce((best, item) => (Math.abs(item.step - step) < Math.abs(best.step - step) ? item : best), this.items[0]); }

  draw(step = this.step) {
    this.step = step;
    const width = this.plot.clientWidth;
    if (!width || step === undefined) return;
    const height = 230, left = 46, top = 8, bottom = 22, side = Math.min(150, width * 0.26), right = width - side - 10;
    const edges = this.items.flatMap((item) => [item.edges[0], item.edges.at(-1)]), lo = Math.min(...edges), hi = Math.max(...edges);
    const y = (v) => top + (1 - (v - lo) / (hi - lo || 1)) * (height - top - bottom);
    const band = (right - left) / this.items.length, x = (i) => left + i * band;
    const shares = this.items.map((item) => { const sum = item.counts.reduce((a, b) => a + b, 0) || 1; return item.counts.map((c) => c / sum); });
    const most = Math.max(...shares.flat(), 1e-9), now = this.items.indexOf(this.at(step));
    const canvas = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': this.words(now) });
    this.items.forEach((item, i) => shares[i].forEach((share, k) => share > 0 && canvas.append(svg('rect', { class: 'shade', x: x(i).toFixed(2), width: band.toFixed(2),
      y: y(item.edges[k + 1]), height: Math.max(1, y(item.edges[k]) - y(item.edges[k + 1])), 'fill-opacity': (0.06 + 0.94 * (share / most) ** 0.55).toFixed(3) }))));
    const scale = ticks(lo, hi, 4);
    canvas.append(...scale.map((t) => svg('text', { x: left - 7, y: y(t) + 3.5, 'text-anchor': 'end' }, tickText(t, scale, num))));
    const every = Math.max(1, Math.ceil(this.items.length / Math.max(2, Math.floor((right - left) / 70))));
    this.items.forEach((item, i) => i % every === 0 && canvas.append(svg('text', { x: x(i) + band / 2, y: height - 5, 'text-anchor': 'middle' }, item.step)));
    canvas.append(svg('rect', { class: 'chosen', x: x(now) - 0.5, width: Math.max(band, 2) + 1, y: top - 2, height: height - top - bottom + 4, rx: 2 }));
    const bars = (i, kind) => shares[i].map((share, k) => svg('rect', { class: kind, x: right + 12, width: (share / most) * (side - 8),
      y: y(this.items[i].edges[k + 1]) + 0.5, height: Math.max(1, y(this.items[i].edges[k]) - y(this.items[i].edges[k + 1]) - 1) }));
    canvas.append(...bars(now, 'bar'), ...(now ? bars(0, 'ghost') : []));
    canvas.append(svg('text', { x: right + 12, y: height - 5 }, now ? 'dashed: first' : 'first step'));
    this.when.textContent = `step ${this.items[now].step}, mean about ${num(this.mean(now))}`;
    this.frame = [left, band];
    this.plot.replaceChildren(canvas);
  }

  mean(i) {
    const { edges, counts } = this.items[i], sum = counts.reduce((a, b) => a + b, 0) || 1;
    return counts.reduce((total, c, k) => total + (c * (edges[k] + edges[k + 1])) / 2, 0) / sum;
  }

  words(i) { return `${this.title} distribution; at step ${this.items[i].step} the mean is about ${num(this.mean(i))}`; }

  pick(event, chosen) {
    const [left, band] = this.frame, i = Math.floor((event.clientX - this.plot.getBoundingClientRect().left - left) / band);
    if (this.items[i]) chosen(this.items[i].step);
  }
}

const rank = (key) => (Object.keys(NAMES).indexOf(key) + 1 || 99);
const distributions = () => {
  const keys = Object.keys(data.histograms).sort((a, b) => rank(a) - rank(b));
  if (!keys.length) return;
  const steps = [...new Set(keys.flatMap((key) => data.histograms[key].map((item) => item.step)))].sort((a, b) => a - b);
  const output = h('output', { for: 'when' });
  const choose = (step) => {
    slider.value = steps.indexOf(step);
    output.textContent = `step ${step}`;
    maps.forEach((map) => map.draw(step));
  };
  const slider = h('input', { type: 'range', id: 'when', min: 0, max: steps.length - 1, value: steps.length - 1, oninput: () => choose(steps[slider.value]) });
  const maps = keys.map((key) => new HeatMap(key, choose));
  section('distributions', 'Distributions', null, h('div', { class: 'controls' }, h('label', { for: 'when' }, 'Step', slider, output)),
    h('div', { class: 'grid two' }, maps.map((map) => map.card)));
  choose(steps.at(-1));
};

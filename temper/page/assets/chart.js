// One line chart: SVG, drawn to its own width, with a cross-hair that all charts share and a legend that is the read-out.

const view = { smooth: 0.8, axis: 'step', hover: null };
const charts = new Set();
const redraw = () => charts.forEach((chart) => chart.draw());

const curve = (key) => data.curves[key];
const pairs = (key) => (curve(key) ? curve(key).x.map((x, i) => [x, curve(key).y[i]]) : []);
const running = (values) => { let sum = 0; return values.map((v) => (sum += v)); };
const AXES = { step: { name: 'step', at: (step) => step, text: (x) => num(x, 4) } };
if (curve('num_tokens')) AXES.tokens = { name: 'tokens', at: between(curve('num_tokens').x, curve('num_tokens').y), text: short };
if (curve('timing_s/step')) {
  const { x, y } = curve('timing_s/step');
  // An averaged-down curve stands for as many steps as lie between its points.
  AXES.seconds = { name: 'time', at: between(x, running(y.map((v, i) => v * (i ? x[i] - x[i - 1] : 1)))), text: duration };
}

function between(xs, ys) {
  return (x) => {
    let lo = 0, hi = xs.length - 1;
    if (x <= xs[0]) return ys[0];
    if (x >= xs[hi]) return ys[hi];
    while (hi - lo > 1) { const mid = (lo + hi) >> 1; if (xs[mid] <= x) lo = mid; else hi = mid; }
    return ys[lo] + ((ys[hi] - ys[lo]) * (x - xs[lo])) / (xs[hi] - xs[lo]);
  };
}
const apart = (lo, hi) => hi - lo > 1e-9 * Math.max(Math.abs(lo), Math.abs(hi)); // by more than rounding
const ticks = (lo, hi, about) => {
  if (!apart(lo, hi)) return [lo];
  const raw = (hi - lo) / about || 1, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const first = Math.ceil(lo / size - 1e-9), list = [];
  for (let i = first; i * size <= hi + size * 1e-9; i++) list.push(Number((i * size).toPrecision(12)));
  return list;
};
const logTicks = (lo, hi) => {
  const list = [];
  for (let p = Math.floor(Math.log10(lo)); p <= Math.ceil(Math.log10(hi)); p++) {
    for (const m of hi / lo < 30 ? [1, 2, 5] : [1]) list.push(m * 10 ** p);
  }
  const inside = list.filter((t) => t >= lo * 0.999 && t <= hi * 1.001);
  const skip = Math.ceil(inside.length / 5);
  return inside.filter((_, i) => i % skip === 0);
};
const smoothed = (list, weight) => {
  let mean = 0, scale = 0;
  return list.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    scale = weight * scale + (1 - weight);
    return [x, mean / scale];
  });
};
const nearest = (list, x) => {
  let best = null;
  for (const point of list) if (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
};
const line = (list, x, y) => list.map((p, i) => `${i ? 'L' : 'M'}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join('');

// series: [{label, points: [[step, value]], color, marks?, faint?}]; band: [[step, low, high]]; stack: draws areas.
class Chart {
  constructor({ title, hint, series, band, stack, text = num, bounds, log = false, wide = false, exact = false }) {
    Object.assign(this, { title, series, band: band || [], stack, text, bounds, log, wide, exact });
    const values = series.flatMap((s) => s.points.map((p) => p[1]));
    const canLog = !stack && values.length > 1 && values.every((v) => v >= 0) && values.some((v) => v > 0);
    this.log = log && canLog;
    this.when = h('span', { class: 'when' });
    this.head = h('span', {}, h('span', { class: 'title' }, title));
    this.plot = h('div', {
      class: 'plot', tabindex: 0, role: 'img', 'aria-label': this.describe(),
      onpointermove: (e) => this.point(e), onpointerdown: (e) => this.point(e),
      onpointerleave: (e) => { if (e.pointerType === 'mouse') this.hover(null); }, onkeydown: (e) => this.move(e),
    });
    this.legend = h('div', { class: 'legend' });
    const tools = h('span', { class: 'tools' },
      canLog && button('log', (e) => { this.log = !this.log; e.target.setAttribute('aria-pressed', this.log); this.draw(); },
        { 'aria-pressed': String(this.log), title: 'Logarithmic scale' }),
      stack && button('share', (e) => { this.share = !this.share; e.target.setAttribute('aria-pressed', this.share); this.draw(); },
        { 'aria-pressed': 'false', title: 'Show shares of the whole' }),
      button('wide', (e) => { this.wide = !this.wide; this.card.classList.toggle('wide', this.wide);
        e.target.setAttribute('aria-pressed', this.wide); this.draw(); }, { 'aria-pressed': String(wide), title: 'Full width', class: 'widen' }),
      button('svg', () => this.save('svg'), { title: 'Save this chart as SVG' }),
      button('png', () => this.save('png'), { title: 'Save this chart as PNG' }));
    this.card = h('figure', { class: `card chart ${wide ? 'wide' : ''}` },
      h('figcaption', {}, h('div', {}, this.head, this.when), h('div', {}, h('small', {}, hint || ''), tools)), this.plot, this.legend);
    this.chips();
    charts.add(this);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  describe() {
    const s = this.series[0]?.points || [];
    if (!s.length) return this.title;
    return `${this.title}: ${this.text(s[0][1])} at step ${s[0][0]}, ${this.text(s[s.length - 1][1])} at step ${s[s.length - 1][0]}. Arrow keys read values.`;
  }

  chips() {
    if (this.series.length === 1 && !this.stack) {
      this.outputs = [h('b', { class: 'now' })];
      this.head.append(' ', this.outputs[0]);
      return;
    }
    this.outputs = this.series.map((s) => {
      const value = h('b');
      const chip = button('', () => {
        s.hidden = !s.hidden;
        chip.setAttribute('aria-pressed', String(!s.hidden));
        this.draw();
      }, { class: 'chip', 'aria-pressed': 'true', style: { '--c': s.color }, title: 'Show or hide' });
      chip.append(h('i'), h('span', {}, s.label), value);
      this.legend.append(chip);
      return value;
    });
  }

  shown() { return this.series.filter((s) => !s.hidden && s.points.length); }

  // The drawn lines: transformed to the axis, smoothed, and stacked where this is a stack.
  lines() {
    const at = AXES[view.axis].at;
    if (!this.stack) {
      return this.shown().map((s) => {
        const raw = s.points.filter((p) => !this.log || p[1] > 0);
        const soft = !s.marks && !this.exact && view.smooth > 0 && raw.length > 8;
        const place = (list) => list.map(([step, v]) => [at(step), v, step]);
        return { s, raw: place(raw), list: soft ? place(smoothed(raw, view.smooth)).map((p, i) => [...p.slice(0, 2), raw[i][0]]) : place(raw), soft };
      });
    }
    const steps = [...new Set(this.shown().flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
    const tables = this.shown().map((s) => new Map(view.smooth > 0 ? smoothed(s.points, view.smooth) : s.points));
    const totals = steps.map((step) => tables.reduce((sum, t) => sum + (t.get(step) || 0), 0) || 1);
    let base = steps.map(() => 0);
    return this.shown().map((s, k) => {
      const top = steps.map((step, i) => base[i] + (tables[k].get(step) || 0) / (this.share ? totals[i] : 1));
      const item = { s, list: steps.map((step, i) => [at(step), top[i], step]), base: steps.map((step, i) => [at(step), base[i]]) };
      base = top;
      return item;
    });
  }

  range(lines) {
    const at = AXES[view.axis].at;
    const xs = this.series.flatMap((s) => [s.points[0], s.points[s.points.length - 1]]).filter(Boolean).map((p) => at(p[0]));
    const band = this.log || this.series[0]?.hidden ? [] : this.band;
    let ys = [...lines.flatMap((l) => (l.soft ? l.raw.concat(l.list) : l.list)).map((p) => p[1]), ...band.flatMap((b) => [b[1], b[2]])];
    if (this.stack) ys.push(0);
    if (this.bounds && !this.log) ys.push(...this.bounds);
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    if (!isNumber(y0)) [y0, y1] = [0, 1];
    if (!apart(x0, x1)) [x0, x1] = [x0 - 1, x1 + 1];
    if (this.log) { if (!apart(y0, y1)) [y0, y1] = [y0 / 2, y1 * 2]; return [x0, x1, y0, y1]; }
    if (!apart(y0, y1)) [y0, y1] = [y0 - (Math.abs(y0) / 2 || 1), y1 + (Math.abs(y1) / 2 || 1)];
    const pad = 0.04 * (y1 - y0), fixed = (v) => (this.bounds || []).includes(v) || (this.stack && v === 0);
    return [x0, x1, fixed(y0) ? y0 : y0 - pad, fixed(y1) ? y1 : y1 + pad];
  }

  draw() {
    const width = this.plot.clientWidth, height = this.wide ? 300 : 176;
    if (!width) return;
    const lines = this.lines(), [x0, x1, y0, y1] = this.range(lines), left = 46, right = 10, top = 8, bottom = 22;
    const f = this.log ? Math.log : (v) => v;
    const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
    const y = (v) => top + (1 - (f(v) - f(y0)) / (f(y1) - f(y0))) * (height - top - bottom);
    const text = this.share ? percent : this.text;
    const yTicks = this.log ? logTicks(y0, y1) : ticks(y0, y1, 4);
    const xTicks = ticks(x0, x1, Math.max(3, Math.floor(width / 95)));
    const canvas = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' });
    canvas.append(
      ...yTicks.map((t) => svg('g', {}, svg('line', { class: t === 0 ? 'zero' : 'rule', x1: left, x2: width - right, y1: y(t), y2: y(t) }),
        svg('text', { x: left - 7, y: y(t) + 3.5, 'text-anchor': 'end' }, tickText(t, yTicks, text)))),
      ...xTicks.map((t) => svg('text', { x: Math.min(x(t), width - 14), y: height - 5, 'text-anchor': 'middle' }, AXES[view.axis].text(t))));
    if (this.band.length && !this.log && !this.series[0].hidden) canvas.append(this.ribbon(x, y, y0, y1));
    for (const l of lines) canvas.append(...this.strokes(l, x, y));
    this.cursor = svg('g', { class: 'cursor' });
    canvas.append(this.cursor);
    this.plot.replaceChildren(canvas);
    Object.assign(this, { drawn: lines, x, y, height, frame: [left, width - right, x0, x1] });
    this.read();
  }

  ribbon(x, y, y0, y1) {
    const at = AXES[view.axis].at, clamp = (v) => Math.max(y0, Math.min(y1, v));
    const soft = (k) => smoothed(this.band.map((b) => [b[0], b[k]]), view.smooth).map((p) => [at(p[0]), clamp(p[1])]);
    const [low, high] = [soft(1), soft(2)];
    return svg('path', { class: 'band', style: { fill: this.series[0].color }, d: `${line(high, x, y)}${line(low.reverse(), x, y).replace('M', 'L')}Z` });
  }

  strokes(l, x, y) {
    const style = { stroke: l.s.color };
    if (this.stack) {
      const d = `${line(l.list, x, y)}${line([...l.base].reverse(), x, y).replace('M', 'L')}Z`;
      return [svg('path', { class: 'area', d, style: { fill: l.s.color } })];
    }
    const parts = l.soft ? [svg('path', { class: 'line raw', d: line(l.raw, x, y), style })] : [];
    parts.push(svg('path', { class: `line ${l.s.faint ? 'faint' : ''}`, d: line(l.list, x, y), style }));
    if (l.s.marks || l.list.length < 2) {
      const radius = l.list.length > 40 ? 1.8 : 3;
      parts.push(...l.list.map((p) => svg('circle', { class: 'mark', cx: x(p[0]), cy: y(p[1]), r: radius, style: { stroke: l.s.color } })));
    }
    return parts;
  }

  // The cross-hair, and the values beside the names.
  read() {
    const hover = view.hover, at = AXES[view.axis].at;
    this.cursor.replaceChildren();
    const [left, right, x0, x1] = this.frame;
    const where = hover === null ? null : at(hover);
    if (where !== null && where >= x0 && where <= x1) {
      const px = this.x(where);
      this.cursor.append(svg('line', { x1: px, x2: px, y1: 8, y2: this.height - 22 }));
    }
    let last = null;
    this.series.forEach((s, i) => {
      const point = s.points.length ? (hover === null ? s.points[s.points.length - 1] : nearest(s.points, hover)) : null;
      if (point && !s.marks && (last === null || point[0] > last)) last = point[0];
      const total = this.share && point ? this.series.filter((o) => !o.hidden)
        .reduce((sum, o) => sum + (nearest(o.points, point[0])?.[1] || 0), 0) : 1;
      this.outputs[i].textContent = point ? (this.share ? percent(point[1] / total) : this.text(point[1])) : '–';
    });
    if (hover !== null) {
      for (const l of this.drawn) {
        const point = l.list.reduce((best, p) => (!best || Math.abs(p[2] - hover) < Math.abs(best[2] - hover) ? p : best), null);
        if (point) this.cursor.append(svg('circle', { cx: this.x(point[0]), cy: this.y(point[1]), r: 3.5, style: { fill: l.s.color } }));
      }
    }
    const step = hover ?? last ?? this.series[0]?.points.at(-1)?.[0];
    this.when.textContent = isNumber(step) ? `step ${num(step, 5)}` : '';
  }

  steps() { return [...new Set(this.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b); }

  point(event) {
    const box = this.plot.getBoundingClientRect(), [left, right, x0, x1] = this.frame;
    const value = x0 + ((event.clientX - box.left - left) / (right - left)) * (x1 - x0), at = AXES[view.axis].at;
    const step = this.steps().reduce((best, s) => (best === null || Math.abs(at(s) - value) < Math.abs(at(best) - value) ? s : best), null);
    this.hover(step);
  }

  move(event) {
    const steps = this.steps(), here = view.hover === null ? steps.length - 1 : steps.indexOf(nearest(steps.map((s) => [s]), view.hover)[0]);
    const by = event.shiftKey ? 10 : 1;
    const next = { ArrowLeft: here - by, ArrowRight: here + by, Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === 'Escape') this.hover(null);
    if (next === undefined) return;
    event.preventDefault();
    this.hover(steps[Math.max(0, Math.min(steps.length - 1, next))]);
  }

  hover(step) {
    if (step === view.hover) return;
    view.hover = step;
    charts.forEach((chart) => chart.frame && chart.read());
  }

  save(kind) { saveChart(this.plot.querySelector('svg'), this.title, this.shown().map((s) => [s.label, s.color]), kind); }

  remove() { charts.delete(this); this.card.remove(); }
}

// Neighbouring tick labels get the same number of decimals.
const tickText = (t, all, text) => {
  if (text === percent) return minus(`${trim((100 * t).toFixed(2))}%`);
  if (text !== num || Math.abs(t) >= 1e4) return text(t);
  const gap = all.length > 1 ? Math.abs(all[1] - all[0]) : 1, most = Math.max(...all.map(Math.abs));
  if (t === 0) return '0';
  if (most < 2e-3 || gap < 1e-5) return minus(t.toExponential(1).replace(/\.?0*e\+?/, 'e'));
  const places = Math.max(0, ...all.map((v) => (trim(v.toFixed(5)).split('.')[1] || '').length));
  return minus(t.toFixed(Math.min(places, 5)));
};

// ---- saving: a copy with every style written out, always in the light colours, with title and legend.

const saveChart = (source, title, legend, kind) => {
  if (!source) return;
  source.style.colorScheme = 'light';
  const copy = source.cloneNode(true), from = [source, ...source.querySelectorAll('*')], to = [copy, ...copy.querySelectorAll('*')];
  const names = ['fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-opacity', 'stroke-dasharray', 'opacity', 'font-size', 'font-family', 'stroke-linejoin'];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    to[i].removeAttribute('class');
    to[i].setAttribute('style', names.map((name) => `${name}:${style.getPropertyValue(name)}`).join(';'));
  });
  const colours = legend.map(([, color]) => {
    const probe = source.appendChild(svg('rect', { style: { fill: color } })), value = getComputedStyle(probe).fill;
    probe.remove();
    return value;
  });
  source.style.colorScheme = '';
  const width = Number(source.getAttribute('width')), height = Number(source.getAttribute('height'));
  const face = { fill: '#222', 'font-family': 'system-ui, sans-serif' };
  const entries = [];
  let x = 10, row = 39;
  (legend.length > 1 ? legend : []).forEach(([label], i) => {
    const wide = 30 + 6.4 * label.length;
    if (x > 10 && x + wide > width) { x = 10; row += 18; }
    entries.push(svg('rect', { x, y: row - 9, width: 10, height: 10, rx: 2, fill: colours[i] }),
      svg('text', { x: x + 14, y: row, 'font-size': 11, ...face }, label));
    x += wide;
  });
  const head = entries.length ? row + 8 : 28;
  const sheet = svg('svg', { xmlns: 'http://www.w3.org/2000/svg', width, height: height + head, viewBox: `0 0 ${width} ${height + head}` },
    svg('rect', { width, height: height + head, fill: '#ffffff' }),
    svg('text', { x: 10, y: 19, 'font-size': 13, 'font-weight': 600, ...face }, title), entries);
  sheet.append(svg('g', { transform: `translate(0 ${head})` }, ...copy.childNodes));
  const text = new XMLSerializer().serializeToString(sheet), name = `${data.name}-${title}`.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  if (kind === 'svg') return download(new Blob([text], { type: 'image/svg+xml' }), `${name}.svg`);
  const image = new Image();
  image.onload = () => {
    const canvas = h('canvas', { width: 2 * width, height: 2 * (height + head) });
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(blob, `${name}.png`));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
};
const download = (blob, name) => {
  const link = h('a', { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
};

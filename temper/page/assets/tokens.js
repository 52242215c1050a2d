// Token by token: an attempt as the turns it is made of, shaded by one column, with every value of a token on request.

const look = { column: null };
const valueAt = (turn, column, i) => {
  const values = turn.columns?.[column];
  return values === undefined ? null : Array.isArray(values) ? values[i] : values;
};
const valuesOf = (turns, column) => turns.flatMap((turn) => {
  const values = turn.columns?.[column];
  return values === undefined ? [] : Array.isArray(values) ? values.filter(isNumber) : [values];
});
const KNOWN = ['advantage', 'ratio', 'entropy', 'logp', 'gate'];
const columnsOf = (turns) => {
  const found = [...new Set(turns.flatMap((turn) => Object.keys(turn.columns || {})))];
  return [...KNOWN.filter((c) => found.includes(c)), ...found.filter((c) => !KNOWN.includes(c)).sort()];
};
const COLUMN_NAMES = { logp: 'log-prob' };
const columnName = (column) => COLUMN_NAMES[column] || words(column);

// How a column becomes colour: `shade` gives [colour, strength 0–1]; `ends` label the legend. The strongest two per cent share full strength.
const tint = (column, turns) => {
  const values = valuesOf(turns, column);
  const cap = (list) => { const s = list.map(Math.abs).sort((a, b) => a - b); return s[Math.floor(0.98 * (s.length - 1))] || s.at(-1) || 1; };
  if (column === 'gate' || (values.length && /gate|mask/.test(column) && values.every((v) => v === 0 || v === 1))) {
    return { shade: (v) => (v ? ['var(--positive)', 0.45] : ['var(--negative)', 0.7]), ends: ['0: left out', '1: trained on'], kind: 'gate' };
  }
  if (/ratio/.test(column)) {
    const top = Math.max(cap(values.filter((v) => v > 0).map(Math.log)), 0.01);
    return { shade: (v) => [v >= 1 ? 'var(--positive)' : 'var(--negative)', v > 0 ? Math.abs(Math.log(v)) / top : 1], sign: (v) => (v > 0 ? Math.log(v) / top : -1),
      ends: [`≤ ${num(Math.exp(-top))}`, '1', `≥ ${num(Math.exp(top))}`], kind: 'diverging' };
  }
  const top = cap(values);
  if (/logp/.test(column) && values.every((v) => v <= 0)) {
    return { shade: (v) => ['var(--amount)', -v / top], sign: (v) => -v / top, ends: ['0: certain', `≤ ${num(-top)}: surprising`], kind: 'amount' };
  }
  if (values.some((v) => v < 0) || column === 'advantage') {
    return { shade: (v) => [v >= 0 ? 'var(--positive)' : 'var(--negative)', Math.abs(v) / top], sign: (v) => v / top,
      ends: [`≤ ${num(-top)}`, '0', `≥ +${num(top)}`], kind: 'diverging' };
  }
  return { shade: (v) => ['var(--amount)', v / top], sign: (v) => v / top, ends: ['0', `≥ ${num(top)}`], kind: 'amount' };
};
const colourToken = (element, tinted, value) => {
  element.classList.toggle('off', tinted?.kind === 'gate' && value === 0);
  if (!tinted || !isNumber(value)) { element.style.removeProperty('--a'); return; }
  const [colour, strength] = tinted.shade(value);
  element.style.setProperty('--c', colour);
  element.style.setProperty('--a', `${Math.round(62 * Math.max(0, Math.min(1, strength)))}%`);
};
const legendOf = (tinted) => h('div', { class: 'ramp' },
  h('i', { class: tinted.kind, 'aria-hidden': 'true' }), h('span', {}, tinted.ends.map((end) => h('span', {}, end))));

// The turns to show for an attempt: its own, and before each whatever else was in context. `fresh` opens a new context.
const pathOf = (group, own) => {
  const shown = new Set(), items = [];
  const put = (i, member) => {
    if (shown.has(i) || !group.turns[i]) return;
    shown.add(i);
    const parent = group.turns[i].parent;
    if (isNumber(parent) && parent >= 0) put(parent, own.includes(parent));
    items.push({ i, turn: group.turns[i], member, fresh: items.length > 0 && !(parent >= 0), back: items.length > 0 && parent >= 0 && items.at(-1).i !== parent });
  };
  own.forEach((i) => put(i, true));
  return items;
};
const contextBefore = (group, i) => {
  let total = 0;
  for (let p = group.turns[i].parent, hops = 0; isNumber(p) && p >= 0 && group.turns[p] && hops < 1e4; p = group.turns[p].parent, hops++) total += group.turns[p].length;
  return total;
};
const textOf = (turn) => turn.tokens.join('');
const authorHue = (group, author) => {
  if (author === 'env') return 'var(--slate)';
  const roles = [...new Set(group.turns.filter((t) => t.author !== 'env').map((t) => String(t.author)))].sort();
  return hue(Math.max(0, roles.indexOf(String(author))));
};

const FINISH = { length: 'cut at the length limit', stop: 'stopped by itself', eos: 'stopped by itself' };

class TokenView {
  constructor(group, own, whole = false) {
    this.group = group;
    this.items = pathOf(group, own);
    this.whole = whole;
    this.tokens = [];
    this.pinned = null;
    this.columns = columnsOf(group.turns);
    if (!this.columns.includes(look.column) && look.column !== 'none') look.column = this.columns.find((c) => valuesOf(group.turns, c).some((v) => v !== 0)) ?? this.columns[0] ?? 'none';
    this.body = h('div', { class: 'tokens', tabindex: 0, role: 'group', 'aria-label': 'Tokens of the attempt: arrow keys move, the panel shows the values',
      onpointerover: (e) => this.peek(e), onpointerleave: () => this.inspect(this.pinned), onclick: (e) => this.pin(e), onkeydown: (e) => this.move(e) });
    this.items.forEach((item) => this.body.append(...this.turn(item)));
    this.ramp = h('div', { class: 'rampbox' });
    this.profile = h('div', { class: 'profile' });
    this.panel = h('aside', { class: 'inspector', 'aria-live': 'polite', 'aria-label': 'Token' });
    const options = [...this.columns.map((c) => [c, columnName(c)]), ['none', 'plain']];
    this.element = h('div', { class: 'tokenview' },
      this.columns.length > 0 && h('div', { class: 'controls' }, h('span', { class: 'field' }, 'Colour by',
        choice('Colour by', options, look.column, (c) => { look.column = c; this.paint(); })), this.ramp),
      this.profile, h('div', { class: 'columns' }, this.body, this.panel));
    this.paint();
    this.inspect(null);
  }

  turn(item) {
    const { turn, i } = item, owners = this.group.trajectories.filter((t) => t.turns.includes(i)).length;
    const marks = [];
    if (item.fresh && !this.whole) marks.push(h('p', { class: 'divider' }, 'fresh context: nothing above is visible to what follows'));
    if (item.back && !this.whole) marks.push(h('p', { class: 'divider' }, `continues from turn ${turn.parent}`));
    const text = h('div', { class: 'text' });
    turn.tokens.forEach((piece, k) => {
      if (k === turn.gap) text.append(h('span', { class: 'gap' }, ` … ${plural(turn.length - turn.tokens.length, 'token')} not kept on this page … `));
      text.append(this.token(piece, turn, i, k));
    });
    if (!turn.tokens.length) text.append(h('span', { class: 'gap' }, turn.length ? `${plural(turn.length, 'token')}, not kept on this page` : 'empty'));
    const long = !turn.sampled && turn.tokens.length > 500;
    if (long) text.classList.add('folded');
    const head = h('header', {},
      h('b', { class: 'author' }, turn.author ?? '?'), h('span', {}, `turn ${i}${item.back && this.whole ? `, after turn ${turn.parent}` : ''}`), h('span', {}, plural(turn.length, 'token')),
      turn.sampled && isNumber(turn.version) && h('span', {}, `weights v${turn.version}`),
      turn.finish && turn.sampled && h('span', { class: turn.finish === 'length' ? 'bad' : '' }, FINISH[turn.finish] || words(turn.finish)),
      owners > 1 && h('span', {}, `shared by ${owners} attempts`), !item.member && h('span', {}, 'context only'),
      long && button('show all', (e) => { e.target.textContent = text.classList.toggle('folded') ? 'show all' : 'fold'; }, { class: 'quiet' }));
    return [...marks, h('article', { class: `turn ${turn.sampled ? 'sampled' : 'given'}`, style: { '--c': authorHue(this.group, turn.author) } }, head, text)];
  }

  token(piece, turn, i, k) {
    const parts = piece.split('\n').flatMap((part, n) => (n ? [h('span', { class: 'return', 'aria-hidden': 'true' }), '\n', part] : [part]));
    const element = h('span', { class: turn.sampled ? 'tok sampled' : 'tok' }, parts);
    element.dataset.n = this.tokens.length;
    this.tokens.push({ element, turn, i, k, piece });
    return element;
  }

  paint() {
    const turns = this.group.turns, tinted = look.column === 'none' || !this.columns.includes(look.column) ? null : tint(look.column, turns);
    this.tokens.forEach((t) => colourToken(t.element, tinted, t.turn.sampled && tinted ? valueAt(t.turn, look.column, t.k) : null));
    this.ramp.replaceChildren(...(tinted ? [legendOf(tinted)] : []));
    this.drawProfile(tinted);
  }

  // The column along the attempt: one bar a sampled token, up or down; a click goes there.
  drawProfile(tinted) {
    const list = this.tokens.filter((t) => t.turn.sampled);
    this.profile.replaceChildren();
    if (!tinted?.sign || list.length < 8) return;
    const signs = list.map((t) => { const v = valueAt(t.turn, look.column, t.k); return isNumber(v) ? Math.max(-1, Math.min(1, tinted.sign(v))) : 0; });
    if (signs.every((s) => s === signs[0])) return;
    const two = tinted.kind === 'diverging', zero = two ? 22 : 42, reach = two ? 20 : 40;
    const path = (keep) => signs.map((s, i) => (keep(s) ? `M${i} ${zero}h0.9v${(-s * reach).toFixed(1)}h-0.9z` : '')).join('');
    const picture = svg('svg', { viewBox: `0 0 ${list.length} 44`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${columnName(look.column)} along the attempt` },
      svg('path', { d: path((s) => s > 0), class: two ? 'positive' : 'amount' }), svg('path', { d: path((s) => s < 0), class: 'negative' }),
      svg('line', { x1: 0, x2: list.length, y1: zero, y2: zero }));
    const at = (e) => { const box = picture.getBoundingClientRect(); return list[Math.max(0, Math.min(list.length - 1, Math.floor(((e.clientX - box.left) / box.width) * list.length)))]; };
    picture.addEventListener('pointermove', (e) => this.inspect(this.tokens.indexOf(at(e))));
    picture.addEventListener('pointerleave', () => this.inspect(this.pinned));
    picture.addEventListener('click', (e) => { this.pinned = this.tokens.indexOf(at(e)); this.inspect(this.pinned, true); });
    this.profile.append(h('span', {}, `${columnName(look.column)} along the ${plural(list.length, 'sampled token')}`), picture);
  }

  find(event) { const element = event.target.closest?.('.tok'); return element ? Number(element.dataset.n) : null; }
  peek(event) { const n = this.find(event); if (n !== null && event.pointerType === 'mouse') this.inspect(n); }
  pin(event) { const n = this.find(event); if (n !== null) { this.pinned = this.pinned === n ? null : n; this.inspect(n); } }

  move(event) {
    const last = this.tokens.length - 1, here = this.pinned ?? this.tokens.findIndex((t) => t.turn.sampled) - 1;
    const next = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + 10, ArrowUp: here - 10, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') { this.pinned = null; this.inspect(null); }
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.pinned = Math.max(0, Math.min(last, next));
    this.inspect(this.pinned, true);
  }

  inspect(n, scroll) {
    this.current?.element.classList.remove('here');
    this.current = n === null ? null : this.tokens[n];
    if (!this.current) {
      this.panel.classList.remove('full');
      return this.panel.replaceChildren(h('p', { class: 'empty' }, 'Point at a token, or click to hold it. With the keyboard: focus the text and use the arrows.'));
    }
    const { element, turn, i, k, piece } = this.current, row = (name, value) => [h('dt', {}, name), h('dd', {}, value)];
    element.classList.add('here');
    if (scroll) element.scrollIntoView({ block: 'nearest' });
    const place = turn.gap !== undefined && k >= turn.gap ? k + turn.length - turn.tokens.length : k;
    const values = Object.keys(turn.columns || {}).sort((a, b) => this.columns.indexOf(a) - this.columns.indexOf(b));
    const logp = valueAt(turn, 'logp', k);
    this.panel.classList.add('full');
    this.panel.replaceChildren(h('code', { class: 'piece' }, JSON.stringify(piece).slice(1, -1).replace(/ /g, '␣')), h('dl', {},
      row('author', turn.author ?? '?'), row('turn', `${i}, token ${place + 1} of ${turn.length}`), row('in context', `position ${contextBefore(this.group, i) + place}`),
      turn.ids && isNumber(turn.ids[k]) && row('token id', String(turn.ids[k])),
      turn.sampled && isNumber(turn.version) && row('weights', `version ${turn.version}`),
      values.map((c) => { const v = valueAt(turn, c, k); return row(columnName(c), isNumber(v) ? num(v, 4) : 'not set'); }),
      isNumber(logp) && logp <= 0 && row('probability', percent(Math.exp(logp))),
      !turn.sampled && row('', 'given, not sampled')));
  }
}

// An attempt or a whole play, turn by turn: tokens shaded by one column, every value of a token on request.

const EAGER = 3000; // tokens that are elements from the start

class TokenView {
  constructor(group, items, lanes = []) {
    Object.assign(this, { group, items, lanes, tokens: [], cards: [], pinned: null });
    this.columns = columnsOf(group.turns);
    if (!this.columns.includes(look.column) && look.column !== 'none') look.column = this.columns.find((c) => valuesOf(group.turns, c).some((v) => v !== 0)) ?? this.columns[0] ?? 'none';
    this.body = h('div', { class: 'tokens', tabindex: 0, role: 'group', 'aria-label': 'Tokens: arrow keys move, the panel shows the values',
      onpointerover: (e) => this.peek(e), onpointerleave: () => this.inspect(this.pinned), onclick: (e) => this.pin(e), onkeydown: (e) => this.move(e) });
    this.ramp = h('div', { class: 'rampbox' });
    this.profile = h('div', { class: 'profile' });
    this.panel = h('aside', { class: 'inspector', 'aria-live': 'polite', 'aria-label': 'Token' });
    items.forEach((item) => this.add(item));
    const options = [...this.columns.map((c) => [c, columnName(c)]), ['none', 'plain']];
    this.lanebox = items.length > 3 ? new Lanes(group, items, lanes, (i) => this.goTo(i)) : null;
    this.element = h('div', { class: 'tokenview' }, this.lanebox?.element,
      this.columns.length > 0 && h('div', { class: 'controls' }, h('span', { class: 'field' }, 'Colour by',
        choice('Colour by', options, look.column, (c) => { look.column = c; this.paint(); })), this.ramp),
      this.profile, h('div', { class: 'columns' }, this.body, this.panel));
    this.paint();
    this.later();
    this.inspect(null);
  }

  add(item) {
    const card = new TurnCard(this, item, this.tokens.length), { group } = this;
    item.turn.tokens.forEach((_, k) => this.tokens.push([card, k]));
    const who = this.lanes.length > 1 && item.role ? ` for ${item.role}` : '';
    if (item.fresh) this.body.append(h('p', { class: 'divider fresh' }, `fresh context${who}: nothing above is visible to what follows`));
    if (item.back >= 0) this.body.append(h('p', { class: 'divider' }, `continues from turn ${item.back}; the context is ${listed([...contextOf(group, item.back)].reverse())}`));
    this.cards.push(card);
    this.body.append(card.element);
  }

  // The first tokens at once, the others when they come near.
  later() {
    let total = 0;
    const waiting = new IntersectionObserver((entries) => entries.forEach((e) => {
      if (!e.isIntersecting) return;
      waiting.unobserve(e.target);
      const card = this.cards.find((c) => c.element === e.target);
      if (!card.built) card.build();
    }), { rootMargin: '800px' });
    this.cards.forEach((card) => {
      const shown = card.ranges().reduce((sum, [from, to]) => sum + to - from, 0);
      if (total < EAGER) card.build(); else waiting.observe(card.element);
      total += shown;
    });
  }

  paint() {
    this.tinted = look.column === 'none' || !this.columns.includes(look.column) ? null : tint(look.column, this.group.turns);
    this.cards.forEach((card) => card.paint());
    this.ramp.replaceChildren(...(this.tinted ? [legendOf(this.tinted)] : []));
    this.drawProfile();
  }

  // The column along the turns: one bar a sampled token, up or down; a click goes there.
  drawProfile() {
    const { tinted } = this, list = this.tokens.map(([card, k], n) => [card.turn, k, n]).filter(([turn]) => turn.sampled);
    this.profile.replaceChildren();
    if (!tinted?.sign || list.length < 8) return;
    const signs = list.map(([turn, k]) => { const v = valueAt(turn, look.column, k); return isNumber(v) ? Math.max(-1, Math.min(1, tinted.sign(v))) : 0; });
    if (signs.every((s) => s === signs[0])) return;
    const two = tinted.kind === 'diverging', zero = two ? 22 : 42, reach = two ? 20 : 40;
    const path = (keep) => signs.map((s, i) => (keep(s) ? `M${i} ${zero}h0.9v${(-s * reach).toFixed(1)}h-0.9z` : '')).join('');
    const picture = svg('svg', { viewBox: `0 0 ${list.length} 44`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${columnName(look.column)} along the turns` },
      svg('path', { d: path((s) => s > 0), class: two ? 'positive' : 'amount' }), svg('path', { d: path((s) => s < 0), class: 'negative' }),
      svg('line', { x1: 0, x2: list.length, y1: zero, y2: zero }));
    const at = (e) => { const box = picture.getBoundingClientRect(); return list[Math.max(0, Math.min(list.length - 1, Math.floor(((e.clientX - box.left) / box.width) * list.length)))][2]; };
    picture.addEventListener('pointermove', (e) => this.inspect(at(e)));
    picture.addEventListener('pointerleave', () => this.inspect(this.pinned));
    picture.addEventListener('click', (e) => { this.pinned = at(e); this.inspect(this.pinned, true); });
    this.profile.append(h('span', {}, `${columnName(look.column)} along the ${plural(list.length, 'sampled token')}`), picture);
  }

  goTo(i) {
    const card = this.cards.find((c) => c.item.i === i);
    if (!card) return;
    this.cards.forEach((c) => c.element.classList.toggle('at', c === card));
    card.element.scrollIntoView({ block: 'start', behavior: 'instant' });
    this.lanebox?.show(this.cards.indexOf(card), false);
  }

  // Dims what turn i did not have in context; once more, and all is plain again.
  showContext(i) {
    this.context = this.context === i ? null : i;
    const seen = this.context === null ? null : contextOf(this.group, i);
    this.cards.forEach((card) => {
      card.element.classList.toggle('outside', Boolean(seen && !seen.has(card.item.i)));
      card.element.querySelector('.saw')?.setAttribute('aria-pressed', String(card.item.i === this.context));
    });
  }

  find(event) { const element = event.target.closest?.('.tok'); return element ? Number(element.dataset.n) : null; }
  peek(event) { const n = this.find(event); if (n !== null && event.pointerType === 'mouse') this.inspect(n); }
  pin(event) { const n = this.find(event); if (n !== null) { this.pinned = this.pinned === n ? null : n; this.inspect(n); } }

  move(event) {
    if (event.target !== this.body) return;
    const last = this.tokens.length - 1, here = this.pinned ?? this.tokens.findIndex(([card]) => card.turn.sampled) - 1;
    const next = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + 10, ArrowUp: here - 10, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') { this.pinned = null; this.inspect(null); }
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.pinned = Math.max(0, Math.min(last, next));
    this.inspect(this.pinned, true);
  }

  inspect(n, scroll) {
    this.current?.classList.remove('here');
    this.current = null;
    if (n === null || !this.tokens[n]) {
      this.panel.classList.remove('full');
      return this.panel.replaceChildren(h('p', { class: 'empty' }, 'Point at a token, or click to hold it. With the keyboard: focus the text and use the arrows.'));
    }
    const [card, k] = this.tokens[n], { turn, item: { i } } = card, row = (name, value) => [h('dt', {}, name), h('dd', {}, value)];
    this.current = card.token(k);
    this.current.classList.add('here');
    if (scroll) this.current.scrollIntoView({ block: 'nearest', behavior: 'instant' });
    const place = turn.gap !== undefined && k >= turn.gap ? k + turn.length - turn.tokens.length : k;
    const values = Object.keys(turn.columns || {}).sort((a, b) => this.columns.indexOf(a) - this.columns.indexOf(b));
    const logp = valueAt(turn, 'logp', k);
    this.panel.classList.add('full');
    this.panel.replaceChildren(h('code', { class: 'piece' }, JSON.stringify(turn.tokens[k]).slice(1, -1).replace(/ /g, '␣')), h('dl', {},
      row('author', turn.author ?? '?'), row('turn', `${i}, token ${place + 1} of ${turn.length}`), row('in context', `position ${contextBefore(this.group, i) + place}`),
      turn.ids && isNumber(turn.ids[k]) && row('token id', String(turn.ids[k])),
      turn.sampled && isNumber(turn.version) && row('weights', `version ${turn.version}`),
      values.map((c) => { const v = valueAt(turn, c, k); return row(columnName(c), isNumber(v) ? num(v, 4) : 'not set'); }),
      isNumber(logp) && logp <= 0 && row('probability', percent(Math.exp(logp))),
      !turn.sampled && row('', 'given, not sampled')));
  }
}
const listed = (turns) => (turns.length > 6 ? `turns ${turns.slice(0, 3).join(', ')} … ${turns.slice(-2).join(', ')}` : `turn${turns.length > 1 ? 's' : ''} ${turns.join(', ')}`);

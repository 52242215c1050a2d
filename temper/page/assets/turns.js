// One turn as a card: who, what it is, how it ended; its calls; its tokens. Of a long turn the middle is folded away,
// and tokens become elements when they come near the window: until then a turn is its plain text.

const FINISH = { length: 'cut at the length limit', stop: 'stopped by itself', eos: 'stopped by itself' };
const KINDS = { tool: 'tool result', observation: 'observation', prompt: 'prompt', other: 'not trained on' };
const FOLD = { sampled: [300, 120], given: [160, 60] };

class TurnCard {
  constructor(view, item, first) {
    Object.assign(this, { view, item, first, turn: item.turn, size: item.turn.tokens.length, built: false, elements: new Map() });
    const [head, tail] = FOLD[this.turn.sampled ? 'sampled' : 'given'];
    this.folded = this.size > 1.25 * (head + tail) ? [head, this.size - tail] : null;
    this.text = h('div', { class: 'text' });
    const toggle = this.folded && button('show all', () => this.unfold(), { class: 'quiet', 'aria-expanded': 'false' });
    this.toggle = toggle;
    const { i, lane } = item, calls = factsOf(view.group).calls.get(i) ?? [];
    this.element = h('article', { class: `turn ${this.turn.sampled ? 'sampled' : 'given'} ${kindOf(view.group, i)}`, 'aria-label': `turn ${i}`, style: { '--c': authorHue(view.group, this.turn.author), '--lane': lane } },
      this.header(toggle), this.text, calls.length > 0 && h('div', { class: 'calls' }, calls.map(callLine)));
    this.plain();
  }

  header(toggle) {
    const { turn, item, view: { group, lanes } } = this, { i } = item, facts = factsOf(group);
    const kind = kindOf(group, i), owners = facts.owners[i].length, answers = facts.answers.get(i) ?? [];
    const chips = answers.map((call) => h('span', { class: 'chip2' }, h('b', {}, toolName(call)), ' ', outcomeBadge(call.outcome)));
    return h('header', {},
      h('b', { class: 'author' }, turn.author ?? '?', lanes.length > 1 && turn.author === 'env' && item.role && h('span', {}, ' → ', h('span', { style: { color: authorHue(group, item.role) } }, item.role))),
      KINDS[kind] && h('span', { class: 'kind' }, KINDS[kind]), chips,
      isNumber(turn.reward) && badge(`turn reward ${signed(turn.reward, num)}`, turn.reward > 0 ? 'good' : turn.reward < 0 ? 'warn' : ''),
      h('span', {}, `turn ${i}`), h('span', {}, plural(turn.length, 'token')),
      turn.sampled && isNumber(turn.version) && h('span', {}, `weights v${turn.version}`),
      turn.finish && turn.sampled && h('span', { class: turn.finish === 'length' ? 'bad' : '' }, FINISH[turn.finish] || words(turn.finish)),
      owners > 1 && h('span', {}, `shared by ${owners} attempts`), !item.member && h('span', {}, 'context only'),
      turn.author !== 'env' && group.turns.length > 2 && button(`${contextBefore(group, i).toLocaleString('en')} in context`, () => this.view.showContext(i), { class: 'quiet saw', title: 'tokens that this turn saw: show which', 'aria-pressed': 'false' }),
      toggle);
  }

  // What is shown: [from, to) of the tokens, with what is missing between.
  ranges() { return this.folded ? [[0, this.folded[0]], [this.folded[1], this.size]] : [[0, this.size]]; }

  fill(make) {
    const { turn } = this, missing = turn.length - this.size;
    this.text.replaceChildren();
    this.ranges().forEach(([from, to], n) => {
      if (n) this.text.append(this.gap(`${plural(this.folded[1] - this.folded[0] + missing, 'token')} folded`));
      const cut = !this.folded && missing > 0 && turn.gap > from && turn.gap < to ? turn.gap : to;
      make(from, cut);
      if (cut < to) { this.text.append(this.gap(`${plural(missing, 'token')} not kept on this page`)); make(cut, to); }
    });
    if (!this.size) this.text.append(h('span', { class: 'gap' }, turn.length ? `${plural(turn.length, 'token')}, not kept on this page` : 'empty'));
  }
  gap(text) { return h('span', { class: 'gap' }, `\n… ${text} …\n`); }

  plain() { this.fill((from, to) => this.text.append(visible(this.turn.tokens.slice(from, to).join('')))); }

  build() {
    this.built = true;
    this.elements.clear();
    const { turn } = this;
    this.fill((from, to) => { for (let k = from; k < to; k++) { const e = tokenElement(turn.tokens[k], turn.sampled, this.first + k); this.elements.set(k, e); this.text.append(e); } });
    this.paint();
  }

  paint() {
    const { tinted } = this.view;
    this.elements.forEach((e, k) => colourToken(e, tinted, this.turn.sampled && tinted ? valueAt(this.turn, look.column, k) : null));
  }

  unfold() {
    if (this.open) { this.folded = this.open; this.open = null; } else { this.open = this.folded; this.folded = null; }
    this.toggle.textContent = this.open ? 'fold' : 'show all';
    this.toggle.setAttribute('aria-expanded', String(Boolean(this.open)));
    this.build();
  }

  // The element of token k, made or unfolded where need be.
  token(k) {
    if (this.folded && k >= this.folded[0] && k < this.folded[1]) this.unfold();
    if (!this.built) this.build();
    return this.elements.get(k);
  }
}

const MARKED = new RegExp(`\\n|${UNSEEN.source}`, 'g');
const SPECIAL = /^<(\|[^<>]*\||\/?s|bos|eos|pad)>$/;
const tokenElement = (piece, sampled, n) => {
  const parts = [];
  let at = 0;
  for (const match of piece.matchAll(MARKED)) {
    if (match.index > at) parts.push(piece.slice(at, match.index));
    parts.push(...(match[0] === '\n' ? [h('span', { class: 'return', 'aria-hidden': 'true' }), '\n'] : [h('span', { class: 'unseen' }, nameOf(match[0]))]));
    at = match.index + 1;
  }
  if (at < piece.length) parts.push(piece.slice(at));
  if (!piece) parts.push(h('span', { class: 'unseen', title: 'no text of its own' }, '▫'));
  const element = h('span', { class: `tok${sampled ? ' sampled' : ''}${SPECIAL.test(piece) ? ' special' : ''}` }, parts);
  element.dataset.n = n;
  return element;
};

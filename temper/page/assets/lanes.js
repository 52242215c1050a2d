// A play at a glance: a lane for each role, time to the right, a block for each turn. A block leads to its turn.

class Lanes {
  constructor(group, items, lanes, go) {
    Object.assign(this, { group, items, go, at: 0 });
    const names = lanes.length ? lanes : [''];
    const width = (item) => `minmax(4px, ${Math.sqrt(item.turn.length + 1).toFixed(1)}fr)`;
    this.blocks = items.map((item, n) => this.block(item, n));
    this.grid = h('div', { class: 'lanes', tabindex: 0, role: 'group', 'aria-label': 'Turns in the order of time: arrow keys move, Enter shows the turn', onkeydown: (e) => this.move(e),
      style: { 'grid-template-columns': items.map(width).join(' ') } }, this.blocks);
    const kinds = new Set(items.map((item) => kindOf(group, item.i)));
    const legend = [['policy', 'sampled'], ['other', 'not trained on'], ['tool', 'tool result'], ['observation', 'observation'], ['prompt', 'prompt']].filter(([kind]) => kinds.has(kind));
    this.element = h('div', { class: 'lanebox' },
      h('div', { class: 'lanenames' }, names.map((name) => h('span', { class: 'role', style: { '--c': name ? authorHue(group, name) : 'var(--slate)' } }, name || 'turns'))),
      h('div', { class: 'scroll' }, this.grid),
      h('p', { class: 'hint' }, legend.map(([kind, name]) => h('span', {}, h('i', { class: `block ${kind}` }), name)),
        items.some((item) => item.fresh) && h('span', {}, h('i', { class: 'block fresh' }), 'fresh context')));
  }

  block(item, n) {
    const { group } = this, { i, turn } = item, facts = factsOf(group);
    const calls = facts.answers.get(i) ?? [], bad = calls.some((c) => c.outcome !== 'ok');
    const title = `turn ${i}: ${turn.author ?? '?'}, ${plural(turn.length, 'token')}${calls.map((c) => `, ${toolName(c)}: ${c.outcome}`).join('')}${item.fresh ? ', fresh context' : ''}`;
    return h('i', { class: `block ${kindOf(group, i)} ${item.fresh ? 'fresh' : ''} ${bad ? 'bad' : ''}`, title,
      style: { 'grid-column': n + 1, 'grid-row': Math.max(0, item.lane) + 1, '--c': authorHue(group, turn.author === 'env' ? item.role : turn.author) }, onclick: () => this.show(n) });
  }

  show(n, jump = true) {
    this.blocks[this.at]?.classList.remove('here');
    this.at = Math.max(0, Math.min(this.items.length - 1, n));
    this.blocks[this.at].classList.add('here');
    this.grid.setAttribute('aria-description', this.blocks[this.at].title);
    if (jump) this.go(this.items[this.at].i);
  }

  move(event) {
    const next = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: this.items.length - 1 }[event.key];
    if (event.key === 'Enter') this.go(this.items[this.at].i);
    if (next === undefined) return;
    event.preventDefault();
    this.show(next, false);
    this.blocks[this.at].scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
}

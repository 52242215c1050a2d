// The tree of turns, drawn where a play branches: shared turns once, at the ends the attempts with their rewards.

// A play branches where a turn of it is continued twice by the same author.
const branching = (group, within) => {
  const { children, owners } = factsOf(group);
  const here = (i) => !within || owners[i].some((t) => within.includes(t));
  return group.turns.some((_, i) => {
    const authors = children[i].filter(here).map((c) => group.turns[c].author);
    return new Set(authors).size < authors.length && (within || parentOf(group, i) >= 0);
  });
};
const isTree = (group, t) => (isNumber(t.episode) ? matesOf(group, t).length > 1 && branching(group, matesOf(group, t)) : branching(group, null));

const average = (list) => { const all = list.filter(isNumber); return all.length ? all.reduce((a, b) => a + b, 0) / all.length : null; };
const creditOf = (turn) => {
  const values = turn.columns?.advantage;
  return Array.isArray(values) ? average(values) : values ?? null;
};

const brief = (x) => num(Math.abs(x) < 100 ? Number(x.toFixed(2)) : x);

class Tree {
  constructor(group, trajectories, range, select) {
    Object.assign(this, { group, trajectories, range, select, place: new Map(), ends: new Map(), below: new Map(), nodes: new Map(), edges: new Map() });
    this.shown = new Set(trajectories.flatMap((t) => t.turns.flatMap((i) => [...contextOf(group, i)])));
    this.children = factsOf(group).children.map((list) => list.filter((c) => this.shown.has(c)));
    trajectories.forEach((t) => { if (t.turns.length) push(this.ends, t.turns.at(-1), t); });
    this.roots = [...this.shown].filter((i) => parentOf(group, i) < 0).sort((a, b) => a - b);
    this.small = trajectories.length > 20;
    this.several = factsOf(group).roles.length > 1;
    this.row = this.small ? 24 : 44;
    this.wide = this.small ? 172 : 136;
    this.leaves = 0;
    this.tall = trajectories.length * this.row > 390; // then a turn stands beside its first branch, else amid its branches
    const depth = Math.max(0, ...this.roots.map((i) => this.lay(i, 0)));
    const width = (depth + 1) * (this.wide + 34) + 110, height = this.leaves * this.row + 8;
    this.picture = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'tree', 'aria-label': `${plural(this.shown.size, 'turn')}, ${plural(trajectories.length, 'attempt')}`, onkeydown: (e) => this.move(e) });
    const all = [...this.place.keys()];
    all.forEach((i) => this.edge(i));
    all.forEach((i) => this.node(i));
    const authors = [...new Set(all.map((i) => String(group.turns[i].author)))];
    this.element = h('div', { class: 'treebox' },
      h('p', { class: 'hint' }, authors.map((a) => h('span', { class: 'role', style: { '--c': authorHue(group, a) } }, a)),
        h('span', {}, 'tok: tokens of the turn; V: mean reward of the attempts that end below it; A: its mean advantage')),
      (this.box = h('div', { class: 'scroll tree' }, this.picture)));
  }

  // Rows from the top, leaves one below another; returns the depth below.
  lay(i, level) {
    this.place.set(i, null);
    const children = this.children[i].filter((c) => !this.place.has(c));
    let depth = level;
    const found = [...(this.ends.get(i) ?? [])];
    children.forEach((c) => { depth = Math.max(depth, this.lay(c, level + 1)); found.push(...this.below.get(c)); });
    const at = children.map((c) => this.place.get(c)[1]);
    const y = at.length ? (at[0] + at[this.tall ? 0 : at.length - 1]) / 2 : (this.leaves++ + 0.5) * this.row + 4;
    this.place.set(i, [level * (this.wide + 34) + 6, y, level]);
    this.below.set(i, found);
    return depth;
  }

  edge(i) {
    const parent = this.place.get(parentOf(this.group, i));
    if (!parent) return;
    const [x, y] = this.place.get(i), from = parent[0] + this.wide;
    const line = svg('path', { class: 'edge', d: `M${from} ${parent[1]}C${from + 18} ${parent[1]} ${x - 18} ${y} ${x} ${y}` });
    this.edges.set(i, line);
    this.picture.append(line);
  }

  node(i) {
    const { group, small, wide } = this, [x, y, level] = this.place.get(i), turn = group.turns[i], high = small ? 18 : 34;
    const value = average(this.below.get(i).map((t) => t.reward)), credit = turn.sampled ? creditOf(turn) : null, ends = this.ends.get(i) ?? [];
    const [lo, hi] = this.range, strength = isNumber(value) ? Math.round((55 * (value - lo)) / (hi - lo || 1)) : 0;
    const who = this.several && !small ? `${squeeze(turn.author ?? '?', 9)} · ` : '';
    const figures = [isNumber(value) && `V ${brief(value)}`, isNumber(credit) && `A ${signed(credit, brief)}`].filter(Boolean);
    const reward = (t) => (isNumber(t.reward) ? brief(t.reward) : 'none');
    const name = `turn ${i}, ${turn.author ?? '?'}, ${plural(turn.length, 'token')}${figures.length ? `, ${figures.join(', ')}` : ''}${ends.map((t) => `, attempt ${group.trajectories.indexOf(t) + 1}, reward ${reward(t)}`).join('')}`;
    const text = (dy, content, kind = '') => svg('text', { class: kind, x: x + 9, y: y + dy }, content);
    const element = svg('g', { class: `node ${turn.sampled ? '' : 'given'}`, role: 'treeitem', 'aria-level': level + 1, 'aria-label': name, tabindex: -1, style: { '--c': authorHue(group, turn.author), '--v': `${Math.max(0, strength)}%` }, onclick: () => this.pick(i) },
      svg('title', {}, name),
      svg('rect', { class: 'pill', x, y: y - high / 2, width: wide, height: high, rx: 5 }),
      svg('rect', { class: 'stripe', x, y: y - high / 2, width: 4, height: high, rx: 2 }),
      small ? text(4, [`${short(turn.length)} tok`, ...figures].join(' · ')) : [text(-3, `${who}${short(turn.length)} tok`), text(12, figures.join(' · '), 'figures')],
      ends.length > 0 && svg('text', { class: 'leaf', x: x + wide + 8, y: y + 4 }, squeeze(ends.map((t) => `#${group.trajectories.indexOf(t) + 1}: ${reward(t)}`).join(', '), 18)));
    this.nodes.set(i, element);
    this.picture.append(element);
  }

  // A turn of the attempt in view is gone to; another turn opens an attempt that ends there, or below.
  pick(i) {
    if (this.chosen?.turns.includes(i)) return this.select(this.chosen, i);
    const t = this.ends.get(i)?.[0] ?? this.below.get(i)[0];
    if (t) this.select(t);
  }

  mark(t) {
    this.chosen = t;
    const mine = new Set(t.turns.flatMap((i) => [...contextOf(this.group, i)]));
    for (const [i, node] of this.nodes) {
      node.classList.toggle('on', mine.has(i));
      node.setAttribute('aria-selected', String(i === t.turns.at(-1)));
      node.setAttribute('tabindex', i === t.turns.at(-1) ? 0 : -1);
    }
    this.edges.forEach((line, i) => line.classList.toggle('on', mine.has(i)));
    this.picture.prepend(...[...this.edges.values()].filter((line) => !line.classList.contains('on')));
  }

  // Once on the page: scrolled to the end of the path.
  reveal() {
    const [x, y] = this.place.get(this.chosen.turns.at(-1)) ?? [0, 0], { box } = this;
    if (y < box.scrollTop + 20 || y > box.scrollTop + box.clientHeight - 20) box.scrollTop = y - box.clientHeight / 2;
    if (x + this.wide + 90 > box.scrollLeft + box.clientWidth) box.scrollLeft = x + this.wide + 90 - box.clientWidth;
  }

  // Left and right along a path, up and down among turns at the same depth.
  move(event) {
    const here = [...this.nodes].find(([, node]) => node === document.activeElement)?.[0];
    if (here === undefined) return;
    const [, y, level] = this.place.get(here), beside = [...this.place].filter(([, at]) => at[2] === level).sort((a, b) => a[1][1] - b[1][1]).map(([i]) => i);
    const next = { ArrowLeft: () => parentOf(this.group, here), ArrowRight: () => this.children[here][0], ArrowUp: () => beside[beside.indexOf(here) - 1], ArrowDown: () => beside[beside.indexOf(here) + 1] }[event.key]?.();
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); return this.pick(here); }
    if (!this.nodes.has(next)) return;
    event.preventDefault();
    this.nodes.get(next).focus({ preventScroll: true });
    this.nodes.get(next).scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
}

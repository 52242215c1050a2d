// The attempts at one task: a table to sort and filter, the tree where plays branch, and the attempt or play in view.

const sampledLength = (group, t) => saidOf(group, t).reduce((sum, i) => sum + group.turns[i].length, 0);
const sampledText = (group, t) => saidOf(group, t).map((i) => textOf(group.turns[i])).join('\n');
const tail = (text, limit = 40) => { const flat = text.replace(/\s+/g, ' ').trim(); return flat.length > limit ? `… ${flat.slice(-limit).replace(/^\S{0,12} /, '')}` : flat; };
const sorting = { by: ['order', 1] };

// Filters beside the search: what they read of an attempt; shown where the attempts differ in it.
const signOf = (x) => (!isNumber(x) ? 'no reward' : x > 0 ? 'reward above 0' : x < 0 ? 'reward below 0' : 'reward 0');
const turnRange = (n) => {
  if (n < 3) return `${n} turn${n === 1 ? '' : 's'}`;
  const top = 2 ** Math.ceil(Math.log2(n));
  return `${top / 2 + 1} to ${top} turns`;
};
const FILTERS = [
  ['Outcome', 'all outcomes', (g, t) => [t.outcome]],
  ['Role', 'all roles', (g, t) => [t.role]],
  ['Reward', 'any reward', (g, t) => [signOf(t.reward)]],
  ['Turns', 'any length', (g, t) => [turnRange(saidOf(g, t).length)]],
  ['Ending', 'truncated or not', (g, t) => [ending(g, t) ? 'truncated' : 'not truncated']],
  ['Tools', 'any tool outcome', (g, t) => (callsOf(t).length ? callsOf(t).map((c) => `tool call: ${c.outcome}`) : ['no tool call'])],
];

class Attempts {
  constructor(group, range) {
    Object.assign(this, { group, range, filter: { text: '' }, whole: null, trees: new Map() });
    this.facts = factsOf(group);
    this.roles = [...new Set(group.trajectories.map((t) => t.role))].filter(Boolean).sort();
    this.rows = h('tbody', { onkeydown: (e) => walk(e, 'tr') });
    this.heads = h('tr');
    this.view = h('div', { class: 'attempt' });
    this.tree = h('div');
    this.parts = [this.tree, this.controls(), h('div', { class: 'scroll attempts', tabindex: -1 }, h('table', { role: 'grid' }, h('thead', {}, this.heads), this.rows)), this.view];
    this.drawRows();
    const best = this.ordered().find((t) => isNumber(t.reward)) ?? this.ordered()[0];
    if (best) this.select(best); else this.view.replaceChildren(new TokenView(group, inOrder(group, group.turns.map((_, i) => i))).element);
  }

  controls() {
    const g = this.group, hidden = g.attempts - g.trajectories.length, plays = this.facts.plays.size;
    const set = (name) => (e) => { this.filter[name] = e.target.value; this.drawRows(); };
    const lists = FILTERS.map(([name, all, read]) => {
      const values = [...new Set(g.trajectories.flatMap((t) => read(g, t)))].filter((v) => v !== null && v !== undefined).map(String).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
      return values.length > 1 && picklist(name, all, values, '', set(name));
    });
    return h('div', { class: 'controls' }, h('h3', {}, plural(g.trajectories.length, 'attempt'), hidden > 0 && h('small', {}, ` of ${g.attempts}`), plays > 0 && plays < g.trajectories.length && h('small', {}, ` in ${plural(plays, 'play')}`)),
      h('input', { type: 'search', placeholder: 'Search attempts', 'aria-label': 'Search attempts', oninput: set('text') }), lists);
  }

  columns() {
    const g = this.group, rows = g.trajectories;
    const names = [...new Set(rows.flatMap((t) => Object.keys(t.rewards)))];
    return [
      ['order', '#', (t) => rows.indexOf(t), (t) => rows.indexOf(t) + 1],
      this.facts.plays.size > 1 && rows.some((t) => matesOf(g, t).length > 1) && ['play', 'play', (t) => t.episode ?? -1, (t) => (isNumber(t.episode) ? t.episode + 1 : '–')],
      this.roles.length > 1 && ['role', 'role', (t) => t.role ?? '', (t) => h('span', { class: 'role', style: { '--c': authorHue(g, t.role) } }, t.role)],
      new Set(rows.map((t) => t.group ?? '')).size > 1 && ['group', 'compared with', (t) => t.group ?? '', (t) => h('span', { class: 'snippet' }, t.group || 'role')],
      ['reward', 'reward', (t) => t.reward ?? -Infinity, (t) => h('span', { class: 'reward' }, rewardDot(t, this.range), isNumber(t.reward) ? num(t.reward) : 'none')],
      ...(names.length > 1 ? names.map((p) => [`rewards/${p}`, words(p), (t) => t.rewards[p] ?? -Infinity, (t) => num(t.rewards[p])]) : []),
      ['advantage', 'advantage', (t) => t.advantage ?? -Infinity, (t) => signed(t.advantage, num)],
      ['length', 'tokens', (t) => sampledLength(g, t), (t) => sampledLength(g, t).toLocaleString('en')],
      rows.some((t) => saidOf(g, t).length > 1) && ['turns', 'turns', (t) => saidOf(g, t).length, (t) => saidOf(g, t).length],
      rows.some((t) => callsOf(t).length) && ['calls', 'calls', (t) => callsOf(t).length, (t) => this.calls(t)],
      ['outcome', 'outcome', (t) => t.outcome ?? '', (t) => this.outcome(t)],
      ['text', 'ends with', (t) => tail(sampledText(g, t)), (t) => h('span', { class: 'snippet' }, tail(sampledText(g, t)))],
    ].filter(Boolean);
  }

  calls(t) {
    const bad = callsOf(t).filter((c) => c.outcome !== 'ok').length;
    return h('span', {}, callsOf(t).length, bad > 0 && ' ', bad > 0 && badge(`${bad} not ok`, 'warn'));
  }

  outcome(t) {
    const cut = ending(this.group, t), bad = t.outcome && t.outcome !== 'ok';
    return h('span', {}, bad ? badge(words(t.outcome), 'warn') : t.outcome ?? '–', cut && ' ', cut && badge(cut, 'warn'));
  }

  ordered() {
    const g = this.group, wanted = this.filter.text.toLowerCase(), [key, sign] = sorting.by;
    const read = (this.columns().find(([name]) => name === key) ?? this.columns()[0])[2];
    return g.trajectories.filter((t) => FILTERS.every(([name, , of]) => !this.filter[name] || of(g, t).map(String).includes(this.filter[name]))
      && (!wanted || sampledText(g, t).toLowerCase().includes(wanted)))
      .sort((a, b) => { const [x, y] = [read(a), read(b)]; return sign * (x < y ? -1 : x > y ? 1 : 0); });
  }

  drawRows() {
    const columns = this.columns(), rows = this.ordered();
    this.heads.replaceChildren(...columns.map(([key, name]) => {
      const active = sorting.by[0] === key;
      const flip = () => { sorting.by = [key, active ? -sorting.by[1] : ['order', 'text', 'role', 'outcome', 'play', 'group'].includes(key) ? 1 : -1]; this.drawRows(); this.heads.querySelector(`[data-key="${CSS.escape(key)}"] button`)?.focus(); };
      return h('th', { scope: 'col', class: `col-${key.replace('/', ' ')}`, 'data-key': key, 'aria-sort': active ? (sorting.by[1] > 0 ? 'ascending' : 'descending') : 'none' }, button(name, flip));
    }));
    this.rows.replaceChildren(...rows.map((t) => {
      const row = h('tr', { onclick: () => this.select(t), onkeydown: (e) => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); this.select(t); } } },
        columns.map(([key, , , show]) => h('td', { class: `col-${key.replace('/', ' ')}` }, show(t))));
      row.trajectory = t;
      row.open = () => this.select(t);
      return row;
    }));
    if (!rows.length) this.rows.append(h('tr', {}, h('td', { colspan: columns.length, class: 'empty' }, 'No attempt fits these filters.')));
    this.markRow();
  }

  markRow() {
    const rows = [...this.rows.children], t = this.trajectory;
    rows.forEach((row) => {
      row.setAttribute('aria-selected', String(row.trajectory === t));
      row.classList.toggle('mate', Boolean(t && this.whole && row.trajectory !== t && matesOf(this.group, t).includes(row.trajectory)));
      row.tabIndex = row.trajectory === t ? 0 : -1;
    });
    if (rows[0] && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
  }

  // Shows an attempt, or the whole play that it is of; a play of several roles is whole unless one asked otherwise.
  select(t, turn = null) {
    const g = this.group, mates = matesOf(g, t);
    this.trajectory = t;
    this.whole ??= severalRoles(mates) ? true : null;
    const whole = Boolean(this.whole && mates.length > 1);
    this.markRow();
    const lanes = [...new Set(mates.map((m) => m.role))], owners = whole ? mates : [t];
    const roleOf = (i) => g.turns[i].author !== 'env' ? g.turns[i].author : this.facts.owners[i].find((o) => owners.includes(o))?.role;
    const turns = whole ? [...new Set(mates.flatMap((m) => m.turns))].sort((a, b) => a - b) : t.turns;
    const several = whole && lanes.length > 1;
    const items = inOrder(g, turns, (i) => (several ? Math.max(0, lanes.indexOf(roleOf(i))) : 0)).map((item) => ({ ...item, role: roleOf(item.i) }));
    const tokens = new TokenView(g, items, several ? lanes : []);
    this.view.replaceChildren(this.head(t, mates, whole), tokens.element);
    this.drawTree(t);
    if (turn !== null) tokens.goTo(turn);
  }

  head(t, mates, whole) {
    const g = this.group, number = (o) => g.trajectories.indexOf(o) + 1;
    const title = whole ? `Play ${t.episode + 1}` : `Attempt ${number(t)}`;
    const rows = this.ordered(), here = rows.findIndex((o) => o === t), other = (by, name) => button(name, () => this.select(rows[here + by]), { disabled: !rows[here + by], class: 'quiet' });
    const view = (whole_, o) => { this.whole = whole_; this.select(o); };
    const options = [['play', 'whole play'], ...(mates.length > 6 ? [t] : mates).map((o) => [number(o), this.nameIn(mates, o)])];
    return h('div', { class: 'attemptbox' },
      h('div', { class: 'attempthead' }, h('h3', {}, title, !whole && t.role && this.roles.length > 1 && ` · ${t.role}`),
        mates.length > 1 && choice('View', options, whole ? 'play' : number(t), (v) => (v === 'play' ? view(true, t) : view(false, g.trajectories[v - 1]))),
        h('span', { class: 'steps' }, other(-1, 'previous'), other(1, 'next'))),
      (whole ? mates : [t]).slice(0, 12).map((o) => this.line(o, whole && mates)), whole && mates.length > 12 && h('p', { class: 'hint' }, `and ${mates.length - 12} more attempts`));
  }

  nameIn(mates, t) {
    const number = mates.filter((m) => m.role === t.role).length > 1 ? ` #${this.group.trajectories.indexOf(t) + 1}` : '';
    return squeeze(asText(t.role ?? 'attempt'), 24) + number;
  }

  line(t, mates) {
    const shares = Object.entries(t.rewards), { calls, finish, ...noted } = t.info && typeof t.info === 'object' ? t.info : {};
    const rest = Object.entries(Array.isArray(calls) || calls === undefined ? noted : { calls, ...noted });
    return h('div', { class: 'attemptline' }, mates && h('span', { class: 'role', style: { '--c': authorHue(this.group, t.role) } }, this.nameIn(mates, t)),
      h('span', {}, 'reward ', h('b', {}, isNumber(t.reward) ? num(t.reward) : 'none')),
      shares.length > 1 && h('span', {}, shares.map(([k, v]) => `${words(k)} ${num(v)}`).join(', ')),
      isNumber(t.advantage) && h('span', {}, 'advantage ', h('b', {}, signed(t.advantage, num))),
      t.group && h('span', {}, 'compared within ', h('b', {}, t.group)), this.outcome(t),
      finish && finish !== 'done' && !ending(this.group, t) && h('span', {}, `ended: ${asText(finish)}`),
      rest.length > 0 && h('details', { class: 'minor' }, h('summary', {}, 'noted'), facts2(rest.map(([k, v]) => [k, asText(v)]))));
  }

  drawTree(t) {
    const g = this.group;
    if (!isTree(g, t)) { this.drawn = null; return this.tree.replaceChildren(); }
    const all = g.trajectories, mine = isNumber(t.episode) ? matesOf(g, t) : all;
    const shown = this.everyPlay ? all : mine, key = shown.length === all.length ? 'all' : t.episode;
    if (!this.trees.has(key)) this.trees.set(key, new Tree(g, shown, this.range, (o, turn) => { this.whole = false; this.select(o, turn); }));
    const tree = this.trees.get(key);
    tree.mark(t);
    if (this.drawn === tree) return tree.reveal();
    this.drawn = tree;
    const options = [['play', 'this play'], ['all', `all ${plural(this.facts.plays.size, 'play')}`]];
    const which = choice('Tree', options, this.everyPlay ? 'all' : 'play', (v) => { this.everyPlay = v === 'all'; this.drawTree(this.trajectory); });
    this.tree.replaceChildren(...(mine.length < all.length ? [which] : []), tree.element);
    tree.reveal();
  }
}

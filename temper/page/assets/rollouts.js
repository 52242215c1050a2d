// The recorded episodes: choose a step, a group, an attempt; read it token by token.

const SHORT = 160;
const sampledLength = (group, t) => t.turns.reduce((sum, i) => sum + (group.turns[i].sampled ? group.turns[i].length : 0), 0);
const sampledText = (group, t) => t.turns.filter((i) => group.turns[i].sampled).map((i) => textOf(group.turns[i])).join('\n');
const promptOf = (group) => messageText(group.task.prompt) || (group.turns[0] ? textOf(group.turns[0]) : '');
const squeeze = (text, limit = SHORT) => { const flat = text.replace(/\s+/g, ' ').trim(); return flat.length > limit ? `${flat.slice(0, limit)}…` : flat; };
const tail = (text, limit = 40) => { const flat = text.replace(/\s+/g, ' ').trim(); return flat.length > limit ? `… ${flat.slice(-limit).replace(/^\S{0,12} /, '')}` : flat; };
const rewardRange = (groups) => {
  const all = groups.flatMap((g) => g.trajectories.map((t) => t.reward)).filter(isNumber);
  return [Math.min(0, ...all), Math.max(1e-9, ...all)];
};
const meanReward = (group) => {
  const all = group.trajectories.map((t) => t.reward).filter(isNumber);
  return all.length ? all.reduce((a, b) => a + b, 0) / all.length : null;
};
const noSignal = (group) => new Set(group.trajectories.map((t) => t.reward).filter(isNumber)).size < 2;
const rewardDot = (t, [lo, hi]) => h('i', isNumber(t.reward)
  ? { class: 'square', style: { '--a': `${Math.round(100 * ((t.reward - lo) / (hi - lo || 1)))}%` } } : { class: 'square none' });

class Rollouts {
  constructor() {
    this.at = data.episodes.length - 1;
    this.sort = ['order', 1];
    this.filter = { text: '', split: '', source: '', signal: '' };
    this.attemptFilter = { text: '', outcome: '', role: '' };
    this.list = h('div', { class: 'groups', role: 'listbox', 'aria-label': 'Groups', onkeydown: (e) => this.walk(e, '.group') });
    this.count = h('p', { class: 'count' });
    this.detail = h('div', { class: 'detail' });
    this.filters = h('div', { class: 'filters' });
    const steps = data.episodes.map((snapshot, i) => [i, String(snapshot.step)]);
    section('rollouts', 'Rollouts', null,
      h('div', { class: 'controls' }, h('span', { class: 'field' }, 'Step', choice('Recorded step', steps, this.at, (i) => this.snapshot(Number(i))))),
      h('div', { class: 'browser' }, h('div', { class: 'picker' }, this.filters, this.count, this.list), this.detail));
    this.snapshot(this.at);
  }

  snapshot(i) {
    this.at = i;
    this.groups = groupsOf(i);
    this.range = rewardRange(this.groups);
    this.texts = null;
    this.drawFilters();
    this.drawGroups();
    const first = this.visible().find((g) => !noSignal(g)) ?? this.visible()[0];
    this.open(first ?? this.groups[0]);
  }

  drawFilters() {
    const values = (read) => [...new Set(this.groups.map(read))].filter(Boolean).sort();
    const set = (name) => (e) => { this.filter[name] = e.target.value; this.drawGroups(); };
    const splits = values((g) => g.split), sources = values((g) => g.task.source);
    if (!splits.includes(this.filter.split)) this.filter.split = '';
    if (!sources.includes(this.filter.source)) this.filter.source = '';
    this.filters.replaceChildren(
      h('input', { type: 'search', placeholder: 'Search problems and answers', 'aria-label': 'Search problems and answers', value: this.filter.text, oninput: set('text') }),
      ...[splits.length > 1 && picklist('Split', 'both splits', splits, this.filter.split, set('split')),
        sources.length > 1 && picklist('Source', 'all sources', sources, this.filter.source, set('source')),
        picklist('Signal', 'any signal', ['with signal', 'zero signal'], this.filter.signal, set('signal'))].filter(Boolean));
  }

  visible() {
    const { text, split, source, signal } = this.filter, wanted = text.toLowerCase();
    if (wanted && !this.texts) this.texts = new Map(this.groups.map((g) => [g, `${promptOf(g)}\n${g.turns.map(textOf).join('\n')}`.toLowerCase()]));
    return this.groups.filter((g) => (!split || g.split === split) && (!source || g.task.source === source)
      && (!signal || noSignal(g) === (signal === 'zero signal')) && (!wanted || this.texts.get(g).includes(wanted)));
  }

  drawGroups() {
    const shown = this.visible(), { total } = data.episodes[this.at];
    const kept = total > this.groups.length ? `${this.groups.length} of the ${plural(total, 'group')} of this step are on the page` : plural(total, 'group');
    this.count.textContent = shown.length < this.groups.length ? `${shown.length} shown; ${kept}` : kept;
    this.list.replaceChildren(...shown.map((group) => this.groupItem(group)));
    if (!shown.length) this.list.append(h('p', { class: 'empty' }, 'No group fits these filters.'));
    this.markGroup();
  }

  groupItem(group) {
    const mean = meanReward(group);
    const item = button('', () => this.open(group), { class: 'group', role: 'option' });
    item.group = group;
    item.append(
      h('span', { class: 'grouphead' }, h('i', { class: 'tag', style: { '--c': sourceHue(group.task.source ?? 'task') } }), h('span', {}, group.task.source ? words(group.task.source) : `task ${group.task.id ?? ''}`),
        group.split !== 'train' && badge(group.split, 'held'), h('b', {}, isNumber(mean) ? num(mean, 2) : '–')),
      h('span', { class: 'snippet' }, squeeze(promptOf(group))),
      h('span', { class: 'squares', 'aria-hidden': 'true' }, group.trajectories.map((t) => rewardDot(t, this.range))));
    return item;
  }

  markGroup() {
    [...this.list.querySelectorAll('.group')].forEach((item) => {
      item.setAttribute('aria-selected', String(item.group === this.group));
      item.tabIndex = item.group === this.group ? 0 : -1;
    });
    const first = this.list.querySelector('.group');
    if (first && !this.list.querySelector('[tabindex="0"]')) first.tabIndex = 0;
  }

  walk(event, kind) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], items = [...event.currentTarget.querySelectorAll(kind)];
    const next = by && items[items.indexOf(document.activeElement.closest(kind)) + by];
    if (!next) return;
    event.preventDefault();
    next.focus();
    if (next.open) next.open(); else next.click();
  }

  open(group) {
    this.group = group;
    this.markGroup();
    if (!group) return this.detail.replaceChildren(h('p', { class: 'empty' }, 'Nothing was recorded at this step.'));
    const values = (read) => [...new Set(group.trajectories.map(read))].filter(Boolean).sort();
    this.roles = values((t) => t.role);
    this.outcomes = values((t) => t.outcome);
    this.attemptFilter = { text: '', outcome: '', role: '' };
    const set = (name) => (e) => { this.attemptFilter[name] = e.target.value; this.drawRows(); };
    this.rows = h('tbody', { onkeydown: (e) => this.walk(e, 'tr') });
    this.heads = h('tr');
    this.view = h('div', { class: 'attempt' });
    this.tree = h('div');
    const hidden = group.attempts - group.trajectories.length;
    this.detail.replaceChildren(this.problem(group), this.tree,
      h('div', { class: 'controls' }, h('h3', {}, plural(group.trajectories.length, 'attempt'), hidden > 0 && h('small', {}, ` of ${group.attempts}`)),
        h('input', { type: 'search', placeholder: 'Search attempts', 'aria-label': 'Search attempts', oninput: set('text') }),
        ...[this.outcomes.length > 1 && picklist('Outcome', 'all outcomes', this.outcomes, '', set('outcome')),
          this.roles.length > 1 && picklist('Role', 'all roles', this.roles, '', set('role'))].filter(Boolean)),
      h('div', { class: 'scroll attempts', tabindex: -1 }, h('table', { role: 'grid' }, h('thead', {}, this.heads), this.rows)), this.view);
    this.trajectory = null;
    this.drawRows();
    const best = this.ordered().find((t) => isNumber(t.reward)) ?? this.ordered()[0];
    if (best) this.select(best); else this.view.replaceChildren(new TokenView(group, group.turns.map((_, i) => i)).element);
  }

  problem(group) {
    const { prompt, answer, source, id, ...rest } = group.task;
    const extra = Object.entries(rest).filter(([, v]) => v !== null && v !== undefined);
    const text = promptOf(group);
    return h('div', { class: 'problem' },
      h('p', { class: 'facts' }, [source && words(source), id !== undefined && id !== null && `task ${id}`, group.split, `step ${group.step}`].filter(Boolean).map((f) => h('span', {}, f))),
      text.length > 700 ? h('details', {}, h('summary', {}, squeeze(text, 300)), h('pre', {}, text)) : h('pre', {}, text),
      answer !== undefined && answer !== null && h('p', { class: 'answer' }, h('span', {}, 'answer'), h('code', {}, squeeze(asText(answer), 600))),
      extra.length > 0 && h('details', { class: 'minor' }, h('summary', {}, 'the rest of the row'), facts2(extra)));
  }

  columns() {
    const g = this.group, rows = g.trajectories;
    const parts = [...new Set(rows.flatMap((t) => Object.keys(t.rewards)))];
    return [
      ['order', '#', (t) => rows.indexOf(t), (t) => rows.indexOf(t) + 1],
      this.roles.length > 1 && ['role', 'role', (t) => t.role ?? '', (t) => h('span', { class: 'role', style: { '--c': authorHue(g, t.role) } }, t.role)],
      ['reward', 'reward', (t) => t.reward ?? -Infinity, (t) => h('span', { class: 'reward' }, rewardDot(t, this.range), isNumber(t.reward) ? num(t.reward) : 'none')],
      ...(parts.length > 1 ? parts.map((p) => [`rewards/${p}`, words(p), (t) => t.rewards[p] ?? -Infinity, (t) => num(t.rewards[p])]) : []),
      ['advantage', 'advantage', (t) => t.advantage ?? -Infinity, (t) => signed(t.advantage, num)],
      ['length', 'tokens', (t) => sampledLength(g, t), (t) => sampledLength(g, t).toLocaleString('en')],
      rows.some((t) => this.spans(t) > 1) && ['turns', 'turns', (t) => this.spans(t), (t) => this.spans(t)],
      ['outcome', 'outcome', (t) => t.outcome ?? '', (t) => this.outcome(t)],
      ['text', 'ends with', (t) => tail(sampledText(g, t)), (t) => h('span', { class: 'snippet' }, tail(sampledText(g, t)))],
    ].filter(Boolean);
  }

  spans(t) { return t.turns.filter((i) => this.group.turns[i].sampled).length; }

  outcome(t) {
    const cut = t.turns.some((i) => this.group.turns[i].finish === 'length');
    const bad = t.outcome && t.outcome !== 'ok';
    return h('span', {}, bad ? badge(words(t.outcome), 'warn') : t.outcome ?? '–', cut && ' ', cut && badge('cut', 'warn'));
  }

  ordered() {
    const { text, outcome, role } = this.attemptFilter, wanted = text.toLowerCase(), [key, sign] = this.sort;
    const read = (this.columns().find(([name]) => name === key) ?? this.columns()[0])[2];
    const kept = this.group.trajectories.filter((t) => (!outcome || t.outcome === outcome) && (!role || t.role === role)
      && (!wanted || sampledText(this.group, t).toLowerCase().includes(wanted)));
    return kept.sort((a, b) => { const [x, y] = [read(a), read(b)]; return sign * (x < y ? -1 : x > y ? 1 : 0); });
  }

  drawRows() {
    const columns = this.columns(), rows = this.ordered();
    this.heads.replaceChildren(...columns.map(([key, name]) => {
      const active = this.sort[0] === key;
      const flip = () => { this.sort = [key, active ? -this.sort[1] : ['order', 'text', 'role', 'outcome'].includes(key) ? 1 : -1]; this.drawRows(); this.heads.querySelector(`[data-key="${CSS.escape(key)}"] button`)?.focus(); };
      return h('th', { scope: 'col', class: `col-${key.replace('/', ' ')}`, 'data-key': key, 'aria-sort': active ? (this.sort[1] > 0 ? 'ascending' : 'descending') : 'none' }, button(name, flip));
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
    const rows = [...this.rows.children];
    rows.forEach((row) => { const on = row.trajectory === this.trajectory; row.setAttribute('aria-selected', String(on)); row.tabIndex = on ? 0 : -1; });
    if (rows[0] && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
  }

  select(t, whole = false) {
    this.trajectory = t;
    this.markRow();
    const g = this.group, mates = t.episode === undefined ? [t] : g.trajectories.filter((o) => o.episode === t.episode);
    const turns = whole ? [...new Set(mates.flatMap((o) => o.turns))].sort((a, b) => a - b) : t.turns;
    const shares = Object.entries(t.rewards);
    this.view.replaceChildren(
      h('div', { class: 'attempthead' }, h('h3', {}, `Attempt ${g.trajectories.indexOf(t) + 1}`, t.role && this.roles.length > 1 && ` · ${t.role}`),
        h('span', {}, 'reward ', h('b', {}, isNumber(t.reward) ? num(t.reward) : 'none')),
        shares.length > 1 && h('span', {}, shares.map(([k, v]) => `${words(k)} ${num(v)}`).join(', ')),
        isNumber(t.advantage) && h('span', {}, 'advantage ', h('b', {}, signed(t.advantage, num))), this.outcome(t),
        mates.length > 1 && choice('Turns', [['own', 'this role'], ['all', 'whole episode']], whole ? 'all' : 'own', (v) => this.select(t, v === 'all'))),
      new TokenView(g, turns, whole).element);
    this.tree.replaceChildren(...(isTree(g) ? [treeView(g, t, (o) => this.select(o))] : []));
  }
}

const picklist = (label, all, options, current, onchange) => h('select', { 'aria-label': label, onchange },
  h('option', { value: '' }, all), options.map((o) => h('option', { value: o, selected: o === current }, words(o))));

const rollouts = () => { if (data.episodes.length) new Rollouts(); };

// ---- the tree of turns, where it is more than one prompt with attempts side by side

const childrenOf = (group) => {
  const children = new Map([[-1, []]]);
  group.turns.forEach((turn, i) => {
    const parent = isNumber(turn.parent) && turn.parent < i && turn.parent >= 0 ? turn.parent : -1;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(i);
  });
  return children;
};
const isTree = (group) => {
  const children = childrenOf(group), roots = children.get(-1);
  return group.turns.length > 2 && (roots.length > 1 || [...children].some(([i, list]) => i >= 0 && !roots.includes(i) && list.length > 1));
};

const treeView = (group, chosen, select) => {
  const children = childrenOf(group), place = new Map(), row = 24, column = 92;
  let leaves = 0, depth = 0;
  const lay = (i, level) => {
    depth = Math.max(depth, level);
    const below = (children.get(i) || []).map((child) => lay(child, level + 1));
    const y = below.length ? (below[0] + below.at(-1)) / 2 : (leaves++ + 0.5) * row;
    if (i >= 0) place.set(i, [level * column + 34, y]);
    return y;
  };
  lay(-1, -1);
  const width = depth * column + 130, height = leaves * row, mine = new Set(chosen.turns);
  const picture = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Tree of ${group.turns.length} turns; the table below lists the attempts` });
  const edge = (i) => {
    const [x, y] = place.get(i), parent = place.get(group.turns[i].parent);
    return parent && svg('path', { class: mine.has(i) ? 'edge on' : 'edge', d: `M${parent[0] + 22} ${parent[1]}C${parent[0] + 46} ${parent[1]} ${x - 46} ${y} ${x - 22} ${y}` });
  };
  const node = (i) => {
    const [x, y] = place.get(i), turn = group.turns[i], owners = group.trajectories.filter((t) => t.turns.includes(i));
    const ends = owners.filter((t) => t.turns.at(-1) === i);
    return svg('g', { class: `node ${mine.has(i) ? 'on' : ''} ${turn.sampled ? '' : 'given'}`, style: { '--c': authorHue(group, turn.author) }, onclick: () => owners[0] && select(ends[0] ?? owners[0]) },
      svg('title', {}, `turn ${i}, ${turn.author}, ${plural(turn.length, 'token')}, in ${plural(owners.length, 'attempt')}`),
      svg('rect', { x: x - 22, y: y - 9, width: 44, height: 18, rx: 9 }), svg('text', { x, y: y + 3.5, 'text-anchor': 'middle' }, short(turn.length)),
      ends.length > 0 && svg('text', { class: 'leaf', x: x + 28, y: y + 3.5 }, ends.map((t) => (isNumber(t.reward) ? num(t.reward, 2) : 'none')).join(' ')));
  };
  const all = [...place.keys()];
  picture.append(...all.map(edge).filter(Boolean), ...all.map(node));
  const authors = [...new Set(group.turns.map((t) => String(t.author)))];
  return h('div', { class: 'treebox' }, h('p', { class: 'hint' }, 'Each pill is a turn with its length in tokens; at the ends, the reward. ',
    authors.map((a) => h('span', { class: 'role', style: { '--c': authorHue(group, a) } }, a))), h('div', { class: 'scroll tree', tabindex: 0, 'aria-label': 'Tree of turns' }, picture));
};

// The recorded episodes: choose a step and a task; its attempts are read in attempts.js.

const SHORT = 160;
const promptOf = (group) => messageText(group.task.prompt) || (group.turns[0] ? textOf(group.turns[0]) : '');
const squeeze = (text, limit = SHORT) => { const flat = text.replace(/\s+/g, ' ').trim(); return flat.length > limit ? `${flat.slice(0, limit)}…` : flat; };
const rewardRange = (groups) => {
  const all = groups.flatMap((g) => g.trajectories.map((t) => t.reward)).filter(isNumber);
  return [Math.min(0, ...all), Math.max(1e-9, ...all)];
};
const rewardDot = (t, [lo, hi]) => h('i', isNumber(t.reward)
  ? { class: 'square', style: { '--a': `${Math.round(100 * ((t.reward - lo) / (hi - lo || 1)))}%` } } : { class: 'square none' });

// Arrow keys in a list move the focus and open what it meets.
const walk = (event, kind) => {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], items = [...event.currentTarget.querySelectorAll(kind)];
  const next = by && items[items.indexOf(document.activeElement.closest(kind)) + by];
  if (!next) return;
  event.preventDefault();
  next.focus();
  if (next.open) next.open(); else next.click();
};

class Rollouts {
  constructor() {
    this.at = data.episodes.length - 1;
    this.filter = { text: '', split: '', source: '', signal: '' };
    this.list = h('div', { class: 'groups', role: 'listbox', 'aria-label': 'Groups', onkeydown: (e) => walk(e, '.group') });
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
    const mean = average(group.trajectories.map((t) => t.reward));
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

  open(group) {
    this.group = group;
    this.markGroup();
    if (!group) return this.detail.replaceChildren(h('p', { class: 'empty' }, 'Nothing was recorded at this step.'));
    this.detail.replaceChildren(...this.problem(group), ...new Attempts(group, this.range).parts);
  }

  problem(group) {
    const { prompt, answer, source, id, ...rest } = group.task;
    const extra = Object.entries(rest).filter(([, v]) => v !== null && v !== undefined);
    const text = promptOf(group);
    return [h('div', { class: 'problem' },
      h('p', { class: 'facts' }, [source && words(source), id !== undefined && id !== null && `task ${id}`, group.split, `step ${group.step}`].filter(Boolean).map((f) => h('span', {}, f))),
      text.length > 700 ? h('details', {}, h('summary', {}, squeeze(text, 300)), h('pre', {}, text)) : h('pre', {}, text),
      answer !== undefined && answer !== null && h('p', { class: 'answer' }, h('span', {}, 'answer'), h('code', {}, squeeze(asText(answer), 600))),
      extra.length > 0 && h('details', { class: 'minor' }, h('summary', {}, 'the rest of the row'), facts2(extra)))];
  }
}

const picklist = (label, all, options, current, onchange) => h('select', { 'aria-label': label, onchange },
  h('option', { value: '' }, all), options.map((o) => h('option', { value: o, selected: o === current }, words(o))));

const rollouts = () => { if (data.episodes.length) new Rollouts(); };
